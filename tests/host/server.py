"""Start a real webui on the CPU with a data folder of its own, and talk to its API."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = """
--skip-prepare-environment --skip-torch-cuda-test --skip-version-check --skip-python-version-check --use-cpu all
--no-half --precision full --do-not-download-clip --no-download-sd-model --api --disable-console-progressbars
--server-name 127.0.0.1 --no-hashing
""".split()
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": "127.0.0.1",
    "IGNORE_CMD_ARGS_ERRORS": "1", "SD_WEBUI_RESTARTING": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
}  # fmt: skip
REQUEST = {
    "prompt": "a (red:1.2) cat", "negative_prompt": "bad", "steps": 3, "sampler_name": "Euler a", "cfg_scale": 7,
    "scheduler": "Automatic", "width": 128, "height": 128, "seed": 7,
}  # fmt: skip


class Refused(Exception):
    """The API answered with an error status."""


class Webui:
    """A running webui; the extensions in its data folder are links to `extensions`, `flags` those of its start,
    `config` the settings that it finds."""

    def __init__(self, webui, python, data, checkpoints, extensions, *, ui, flags=FLAGS, config=None):
        self.data, self.port = Path(data), _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        (self.data / "extensions").mkdir(parents=True)
        for name, folder in extensions.items():
            (self.data / "extensions" / name).symlink_to(folder)
        (self.data / "config.json").write_text(json.dumps(config or {}))
        self.log = self.data / "log.txt"
        command = [python, "launch.py", *flags, "--port", str(self.port), "--data-dir", str(data)]
        command += ["--ckpt-dir", str(checkpoints), *([] if ui else ["--nowebui"])]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=webui, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT}, start_new_session=True,
            )  # fmt: skip
        try:
            self.wait()
        except BaseException:  # Ctrl-C too: nobody else knows of the process yet
            self.stop()
            raise

    def wait(self, seconds=600, starts=1):
        """Until it has started for the `starts`-th time. A request that comes earlier can make the host fail."""
        end = time.monotonic() + seconds
        while self.log.read_bytes().count(b"Startup time:") < starts:
            if self._process.poll() is not None:
                raise RuntimeError(f"the webui ended:\n{self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"the webui did not come up in {seconds} s:\n{self.tail()}")
            time.sleep(0.2)
        while True:
            try:
                return self.call("/sdapi/v1/sd-models")
            except (OSError, Refused):
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def reload(self):
        """What the button "Reload UI" does."""
        starts = self.log.read_bytes().count(b"Startup time:")
        self.probe("reload", {})
        self.wait(starts=starts + 1)

    @property
    def process_id(self):
        return self._process.pid

    def tail(self):
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(20)

    def call(self, path, body=None, seconds=600):
        """GET, or POST when there is a body.

        Raises:
            Refused: with status and text when the API answers with an error.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.code} {error.read().decode()[:500]}") from None

    def picture(self, *args, path="txt2img", scripts=None, **fields):
        """Make pictures; `args` go to Attention Lab (none: it is not mentioned at all)."""
        body = REQUEST | fields
        scripts = dict(scripts or {})
        if args:
            scripts["Attention Lab"] = {"args": list(args)}
        if scripts:
            body["alwayson_scripts"] = scripts
        return Pictures(self.call(f"/sdapi/v1/{path}", body))

    @contextlib.contextmanager
    def options(self, **values):
        """Change settings meanwhile. A request's own `override_settings` the host does not always take back."""
        before = self.call("/sdapi/v1/options")
        self.call("/sdapi/v1/options", values)
        try:
            yield
        finally:
            self.call("/sdapi/v1/options", {key: before[key] for key in values})

    def probe(self, what, body=None):
        """Ask the test-only extension inside the host."""
        return self.call(f"/attention-lab-probe/{what}", body)


class Pictures:
    """Pixels and texts of one answer."""

    def __init__(self, answer):
        self.encoded = answer["images"]
        info = json.loads(answer["info"])
        self.texts, self.parameters = info["infotexts"], info["extra_generation_params"]

    @property
    def pixels(self):
        from PIL import Image

        return [Image.open(io.BytesIO(base64.b64decode(picture))).tobytes() for picture in self.encoded]

    @property
    def sizes(self):
        from PIL import Image

        return [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in self.encoded]


def with_embedded_model(webui, folder):
    """Make `folder` a webui like `webui` but for its models: only the embedded one. Returns it."""
    from lib_attn.lab.commands import cli

    folder.mkdir()
    for entry in webui.iterdir():
        if entry.name not in ("models", "outputs", "config.json", "ui-config.json"):
            (folder / entry.name).symlink_to(entry)
    assert cli.main(["install-model", "--webui", str(folder)]) == 0
    return folder


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
