import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
import torch
from endofm.allocator import keep_freed_memory

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resident()
tensors = [torch.ones(25_000_000) for _ in range(3)]
held = resident() - before
del tensors
sys.stdout.write(f"{held} {resident() - before}")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_tensors_stay_with_the_process():
    for how, share in (("leave", 0.0), ("keep", 1.0)):
        told = subprocess.check_output([sys.executable, "-c", SCRIPT, how], text=True)
        held, left = map(int, told.split())
        assert held > 280e6 and abs(left / held - share) < 0.1, how


GIVE_BACK = """
import sys
from pathlib import Path
import torch
from endofm.allocator import give_back_freed_memory, keep_freed_memory

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

keep_freed_memory()
before = resident()
tensors = [torch.ones(25_000_000) for _ in range(3)]
held = resident() - before
del tensors[:2]  # the last one lies above them
kept = resident() - before
give_back_freed_memory(torch.device(sys.argv[1]))
sys.stdout.write(f"{held} {kept} {resident() - before}")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_given_back_where_tensors_are_on_a_cpu():
    for device, share in (("cpu", 1 / 3), ("cuda", 1.0)):
        told = subprocess.check_output([sys.executable, "-c", GIVE_BACK, device], text=True)
        held, kept, left = map(int, told.split())
        assert held > 280e6 and abs(kept / held - 1) < 0.1
        assert abs(left / held - share) < 0.1, device
