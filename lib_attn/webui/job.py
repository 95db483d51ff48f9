"""A job of the host while we take part in it.

The state hangs on the host's processing object. The patches are on exactly while the host samples: the pass's own
sampler object gets a `launch_sampling` that attaches, samples and detaches, whatever happens in between.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from lib_attn import techniques
from lib_attn.attach import attach
from lib_attn.preview import told_after
from lib_attn.settings import Group, Settings
from lib_attn.store import Kept, Store
from lib_attn.techniques import ORDER
from lib_attn.techniques.facts import Facts
from lib_attn.unet.families import UnsupportedModel
from lib_attn.unet.rows import Row
from lib_attn.webui import api, controlnet, grid, host, infotext, negatives, options, underdrawing, xyz

ATTRIBUTE = "attention_lab"
CONTROLNET = "ControlNet"
"""How a picture is guided where the host's extension does it."""
RESERVED = "attention_lab_reserved"
OBSERVERS = "attention_lab_observers"
"""Attribute of a job with functions that make the observers of each pass, see `lib_attn.attach.Attachment`."""

# Jobs that have a sampler prepared or sample right now; a safety net, no job's state is here.
_live: weakref.WeakSet[Job] = weakref.WeakSet()
_model_note = host.ModelNote()
# What the user has recorded for later pictures: his data, wanted by jobs to come.
_store = Store()


class Job:
    """Our part in one run of ``process_images``.

    Args:
        settings: as the user wants them in this job.
        say: takes a sentence for the user; each is passed on once.
        observers: make what looks on in each pass.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None], observers: Sequence[Callable[[], Any]] = ()):
        self.settings, self._observers = settings, observers
        self._say_to, self._said = say, set()
        self._techniques: tuple[Group, ...] = ()
        self._saving = False
        self._seeds: list[int] = []
        self._sampler: Any = None
        self._before: Callable | None = None
        self._due: set[str] = set()
        self._attachment: Any = None
        self._model_state: tuple = ()
        self._inner_model: Any = None
        self._sampling = False
        self._acted: set[str] = set()
        self.changed: set[str] = set()
        self._idle: dict[str, str | None] = {}
        self._words = negatives.Words()
        self._failed_with_fewer = self._failed = False
        self.asked = self.drawn_first = False
        self.could_follow = False  # there was a recorded run before this job
        self.reserved: controlnet.Reserved | None = None
        self.pictures: list[Any] = []
        self._maps: list[tuple[Group, list[Any]]] = []

    def say(self, text: str) -> None:
        """Tell the user one sentence, once in this job."""
        if text not in self._said:
            self._said.add(text)
            self._say_to(text)

    @property
    def sampling(self) -> bool:
        return self._sampling

    def prepare(self, sampler: Any, seeds: Sequence[int], hires: bool, cfg: float | None = None) -> None:
        """Get ready for the pass that `sampler` is going to make at guidance scale `cfg`."""
        self.asked = True
        self.release()
        self._techniques = self.settings.for_pass(hires)
        general = self.settings.general
        self._saving = general.enabled and general.skip_cfg1 and cfg == 1
        if self._failed or not (self._techniques or self._saving or self._observers):
            return
        refusal = host.refusal()
        if refusal is None and not callable(getattr(sampler, "launch_sampling", None)):
            refusal = f"Attention Lab did nothing: {type(sampler).__name__} is a sampler that it does not know."
        if refusal is not None:
            if self._techniques or self._observers:
                self.say(refusal)
            return
        self._seeds, self._sampler = [int(seed) for seed in seeds], sampler
        self._before = sampler.__dict__.get("launch_sampling")
        original = sampler.launch_sampling

        def launch_sampling(*args: Any, **kwargs: Any) -> Any:
            return self._sample(original, *args, **kwargs)

        launch_sampling.attention_lab = self
        sampler.launch_sampling = launch_sampling
        _live.add(self)

    def draw_first(self, p: Any, conds: tuple[Any, Any], noise: Any = None) -> None:
        """Have what a technique wants drawn before the picture of `p` drawn, and show it.

        Args:
            noise: all that the picture begins with; None where it begins with more.
        """
        for group in self.settings.active():
            if not group.draws_first:
                continue
            reserved = self.reserved
            if group.guide == CONTROLNET and reserved is None:
                self._acted.add(group.name)  # why no map is drawn was said when nothing could be reserved
                continue

            def say(text: str, group=group) -> None:
                self._acted.add(group.name)  # there is no more to say on why the picture follows no map
                self.say(text)

            followed = noise if group in self.settings.for_pass(hires=False) else None
            techniques.lay_nothing_ready(group.name, _store)
            try:

                def draw(group=group, followed=followed, say=say):
                    if host.refusal() is not None:
                        return ()
                    return underdrawing.draw(p, group, conds, _store, say, followed)

                maps = reserved.draw(p, draw) if reserved else draw()
                pictures = underdrawing.shown(p, group, maps)
                self.pictures += pictures if group.show else []
                self._maps.append((group, pictures))
            except Exception:
                host.log.exception("The map could not be drawn")
                say("The map could not be drawn, see the log: the picture comes without it.")
                maps = ()
            if maps:
                self._acted.add(group.name)
            if maps and reserved:
                self.changed.add(group.name)
            # ControlNet takes one map for the whole batch.
            followed_by = [maps[0]] * len(maps) if maps and reserved else maps
            hashes = [drawn.hash for drawn in followed_by] or [None] * getattr(p, "batch_size", 1)
            infotext.write_maps(p.extra_generation_params, hashes, lambda p, g=group: changed_nothing(p, g.name))

    def put_maps_away(self, p: Any) -> None:
        """The batch of `p` is done, and what there is to tell of it is told."""
        maps, self._maps = self._maps, []
        for group, pictures in maps:
            try:
                underdrawing.put_away(p, group, pictures)
            except Exception:
                host.log.exception("A map could not be saved")
                self.say("A map could not be saved, see the log.")

    def _sample(self, original: Callable, *args: Any, **kwargs: Any) -> Any:
        self._restore_sampler()
        self._sampling, self._due = True, set()
        try:
            self._attach()
            return original(*args, **kwargs)
        finally:
            self.release()

    def _attach(self) -> None:
        self._detach()
        try:
            model = host.current_model()
            self._model_state = host.model_state(model)
            self._attachment = attach(
                model,
                self._techniques,
                seeds=self._seeds,
                hypernetwork=host.apply_hypernetworks,
                upcast=host.upcasts_attention,
                inert=host.is_idle_wrapper,
                harmless=host.treats_rows_alike,
                whole=self._failed_with_fewer,
                prediction=host.predicts(model),
                save_negative=self._saving,
                store=_store,
                files=host.files,
                observers=[make() for make in self._observers],
                say=self.say,
            )
            # Until the first announced evaluation every call to the U-Net is somebody else's.
            self._attachment.begin_step([], 0, 1)
        except UnsupportedModel as error:
            self.say(f"Attention Lab did nothing: {error}.")
        except Exception:
            host.log.exception("Attention Lab could not be attached")
            self.say("Attention Lab did nothing: it could not be attached to this model, see the log.")

    def owns(self, denoiser: Any) -> bool:
        """Whether `denoiser` belongs to the pass that this job is sampling."""
        return self._sampling and getattr(denoiser, "sampler", None) is self._sampler

    def begin_step(self, params: Any) -> None:
        """Tell the attachment which rows come; follow the host to another model (refiner) first."""
        denoiser = params.denoiser
        if self._model_state != host.model_state(host.current_model()):
            self._attach()
        if self._attachment is None:
            return
        self._inner_model = denoiser.inner_model
        step, total = denoiser.step, denoiser.total_steps or denoiser.steps or 1
        try:
            rows = host.rows_of(denoiser, params.x.shape[0])
            told = self._told(params, rows)
        except Exception:
            host.log.exception("Attention Lab does not understand this step")
            rows, told = None, {}
        self._attachment.begin_step(rows, step, total, **told)
        share = step / total
        self._due |= {group.name for group in self._techniques if group.start <= share < group.end}

    def _told(self, params: Any, rows: Sequence[Row] | None) -> dict[str, Any]:
        """What `lib_attn.attach.Attachment.begin_step` wants to know of an evaluation besides its rows."""
        told = negatives.told(params.denoiser.p, params, self._words if self._attachment.reads_text else None)
        told["size"] = tuple(params.x.shape[-2:])
        if rows:
            # The host puts the negatives, one for each image, at the end; callbacks to come may change them in place.
            images = 1 + max(row.image for row in rows)
            told |= {"latents": params.x[-images:].clone(), "texts": negatives.texts(params.denoiser, rows)}
        return told

    def end_step(self) -> None:
        """U-Net calls are no longer ours until the next `begin_step`."""
        if self._attachment is not None:
            self._attachment.end_step()

    def evaluates(self, inner_model: Any) -> bool:
        return inner_model is not None and inner_model is self._inner_model

    def forget_model(self) -> None:
        """The host has loaded weights: attach anew before the next evaluation."""
        self._model_state = ()

    def _detach(self) -> None:
        attachment, self._attachment = self._attachment, None
        if attachment is None:
            return
        try:
            self._note(attachment)
        except Exception:
            host.log.exception("Attention Lab cannot say what it did")
        finally:
            attachment.detach()

    def _note(self, attachment: Any) -> None:
        """Keep what a pass has to show and to tell."""
        self.pictures += [host.picture(values) for _, values in attachment.pictures()]
        self._acted |= attachment.acted
        self._failed_with_fewer |= attachment.failed_with_fewer
        self.changed |= attachment.acted
        for group in self._techniques:
            if group.name in self._due:
                self._idle[group.name] = attachment.why_idle(group)
        self._failed |= attachment.failed

    def say_if_idle(self, facts: Facts) -> None:
        """Name the techniques that changed no pass so far. A small first pass before a large hires pass is no news."""
        why, acted = self._idle, self._acted
        for sentence in told_after(self.settings, facts, lambda g: g.name in acted, lambda g: why.get(g.name)):
            self.say(sentence)

    def _restore_sampler(self) -> None:
        ours = getattr(self._sampler, "__dict__", {}).get("launch_sampling")
        if getattr(ours, "attention_lab", None) is self:
            if self._before is None:
                del self._sampler.launch_sampling
            else:
                self._sampler.launch_sampling = self._before

    def release(self) -> None:
        """Take everything off the model and the sampler. Safe to call at any time and twice."""
        self._detach()
        self._restore_sampler()
        self._sampler = self._before = self._inner_model = None
        self._sampling = False
        _live.discard(self)


def job_of(p: Any) -> Job | None:
    return getattr(p, ATTRIBUTE, None)


def changed_nothing(p: Any, technique: str) -> bool:
    """Whether a technique is known to have changed nothing in what job `p` has sampled so far."""
    job = job_of(p)
    return job is not None and job.asked and technique not in job.changed


def _kept() -> Kept | None:
    """What the last recording has kept."""
    return next((kept for kept in map(_store.get, ORDER) if kept is not None), None)


def recorded() -> dict[str, Any] | None:
    """Prompt, size and MiB of the recorded run, None without one."""
    found = _kept()
    if found is None:
        return None
    about = found.about or {"prompt": "", "width": 0, "height": 0}
    return about | {"prompt": str(about["prompt"])[:80], "mib": round(found.bytes / 2**20, 1)}


def latest(key: str) -> str:
    """What a button beside the parameter of this key fills in; empty when there is nothing yet."""
    return techniques.latest_of(key.partition(".")[0], _store)


def keeps(name: str, wanted: str) -> bool:
    """Whether what a technique has drawn first is still there under this hash."""
    return techniques.keeps(name, wanted, _store)


def forget_recorded() -> None:
    """Drop the recorded run."""
    techniques.forget_recorded(_store)


def clear(p: Any) -> None:
    """Before a job: drop what an earlier run of the same object, or a job that never came to sample, left behind."""
    for job in list(_live):
        if not job.sampling:
            job.release()
    finish(p)
    if job_of(p) is not None:
        setattr(p, ATTRIBUTE, None)


def finish(p: Any, processed: Any = None) -> None:
    """After a job: put what the techniques have to show into its gallery.

    The job's settings stay: ADetailer ends a job early and then goes on with its other batches.
    """
    if processed is not None:
        give_back(p)
    job = job_of(p)
    if job is None:
        return
    job.release()
    pictures, job.pictures = job.pictures, []
    if processed is not None:
        processed.images.extend(pictures)
        # The host looks up a text for every picture in the gallery.
        processed.infotexts.extend(picture.info.get("parameters", processed.info) for picture in pictures)


def give_back(p: Any) -> None:
    """Give back what an earlier run of `p` has reserved."""
    reserved, _ = getattr(p, RESERVED, (None, []))
    setattr(p, RESERVED, (None, []))
    if reserved is not None:
        try:
            reserved.release(p)
        except Exception:
            host.log.exception("ControlNet could not be given its unit back")


def reserve(p: Any, args: Sequence[Any]) -> None:
    """Before anybody reads the arguments of job `p`: reserve what the map, which is drawn later, is handed to."""
    give_back(p)
    settings, _ = xyz.overridden(api.read_args(args)[0], dict(getattr(p, xyz.ATTRIBUTE, None) or {}))
    settings, _ = settings.completed(host.fitting)
    inner = host.is_inner_pass(p) and not settings.general.inner_passes
    for group in settings.active():
        if group.draws_first and group.guide == CONTROLNET and not inner:
            said: list[str] = []
            say, reserved = said.append, None
            try:
                reserved = controlnet.reserve(p, group, say)
            except Exception:
                host.log.exception("ControlNet could not be asked")
                say("The picture is drawn without its map: ControlNet could not be asked, see the log.")
            setattr(p, RESERVED, (reserved, said))


def begin(p: Any, args: Sequence[Any]) -> None:
    """Read the settings of job `p`, write its infotext and tell the user what was not understood."""
    clear(p)
    try:
        _begin(p, args)
    except Exception:
        # The host would log it and draw on, and the user would not learn that nothing acted.
        host.log.exception("Attention Lab could not be prepared")
        host.comment(p, "Attention Lab did nothing: it could not be prepared for this picture, see the log.")


def _begin(p: Any, args: Sequence[Any]) -> None:
    chosen, messages = api.read_args(args)
    settings, more = xyz.apply_overrides(p, chosen)
    inner = host.is_inner_pass(p) and not settings.general.inner_passes
    settings, found = settings.completed(host.fitting)
    if not inner:
        stamped = settings.with_files(host.files.stamped)
        stamped = techniques.stamped(stamped, _store)
        infotext.write(p.extra_generation_params, stamped, options.full_infotext(), changed_nothing)
    for message in dict.fromkeys([*messages, *more, *found, *grid.told(p, chosen, recorded() is not None)]):
        host.comment(p, message)
    if inner:
        return
    active, observers = list(settings.active()), getattr(p, OBSERVERS, ())
    if not active and not observers and not (settings.general.enabled and settings.general.skip_cfg1):
        return
    # Weakly, so that the job on `p` does not keep `p` itself alive.
    target = weakref.ref(p)
    job = Job(settings, lambda text: host.comment(target(), text), observers)
    setattr(p, ATTRIBUTE, job)
    job.reserved, said = getattr(p, RESERVED, (None, []))
    job.could_follow = recorded() is not None
    for text in said:
        job.say(text)


def before_sampling(p: Any, conds: tuple[Any, Any] = (None, None), x: Any = None, noise: Any = None) -> None:
    """The host is about to sample a pass of `p`; its sampler, model and sizes are final.

    Args:
        conds: what it made of the prompts and the negative prompts.
        x, noise: what it begins with, and its noise: the same where there is no picture yet.
    """
    job = job_of(p)
    if job is not None:
        hires, cfg = bool(getattr(p, "is_hr_pass", False)), getattr(p, "cfg_scale", None)
        # The host may begin with the hires pass, of a picture that is there already.
        if not hires or not job.drawn_first:
            job.drawn_first = True
            job.draw_first(p, conds, noise if x is noise and not hires else None)
        job.prepare(p.sampler, getattr(p, "seeds", None) or [], hires, cfg)


def after_batch(p: Any) -> None:
    """A batch is done: say so when the host sampled without calling us, or when there was nothing to do in any pass."""
    job, kept = job_of(p), _kept()
    if kept is not None and not kept.about:
        kept.about = {name: getattr(p, name, "") for name in ("prompt", "width", "height")}
    if job is not None:
        job.drawn_first = False
    if job is not None and not job.asked and any(job.settings.active()):
        job.say("Attention Lab did nothing: a script samples in a way of its own.")
    elif job is not None:
        job.say_if_idle(grid.facts_of(p, job.could_follow))
    if job is not None:
        job.put_maps_away(p)


def on_cfg_denoiser(params: Any) -> None:
    """The host has put an evaluation together and is about to run it."""
    owner = job_of(getattr(params.denoiser, "p", None))
    for job in list(_live):
        if not job.owns(params.denoiser):
            job.end_step()  # somebody samples inside of our sampling
    if owner is not None and owner.owns(params.denoiser):
        owner.begin_step(params)


def on_cfg_denoised(params: Any) -> None:
    """The evaluation is done."""
    for job in list(_live):
        if job.evaluates(params.inner_model):
            job.end_step()


def on_model_loaded(model: Any) -> None:
    """Weights were loaded, into a new model or into the old one's modules."""
    _model_note.take(model)
    for job in list(_live):
        job.forget_model()


def release_all() -> None:
    """The script is being unloaded: nothing of ours may stay on a model or a sampler."""
    for job in list(_live):
        job.release()
