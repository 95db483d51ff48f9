"""What a command of our own sets on the process it runs in."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from lib_attn.lab.shared.machine import keep_memory
told = keep_memory() if sys.argv[1] == "keep" else None
for _ in range(24):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(how: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    told, faults = done.stdout.split()
    return told, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux'")
def test_freed_memory_is_used_again():
    """64 MiB eight times over: left alone the kernel hands them out anew, page by page, each time.

    The heap of glibc takes some rounds to settle, because tensors are aligned and a freed place is a little short.
    """
    told, kept = run("keep")
    if told == "False":
        pytest.skip("This C library has no mallopt.")
    _, anew = run("leave")
    assert anew > 8 * 30  # in pages of 2 MiB at the most
    assert kept < anew / 8
