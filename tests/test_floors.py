"""No import goes up, and ground rooms don't import each other (shared design, "Floors")."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASEMENT = {"allocator", "config", "errors", "files", "processes", "program", "__init__"}
GROUND = {"data", "models", "heads", "losses", "metrics"}
MAY_IMPORT = {
    **{room: BASEMENT | {room} for room in GROUND},
    "synthetic": BASEMENT | {"data", "synthetic"},
    "training": BASEMENT | GROUND | {"training"},
    "hub": BASEMENT | {"models", "hub"},
    "report": BASEMENT | GROUND | {"training", "hub", "report"},
    "tasks": BASEMENT | GROUND | {"training", "hub", "tasks"},
    "bench": BASEMENT | GROUND | {"training", "hub", "tasks", "synthetic", "bench"},
    "programs": BASEMENT | GROUND | {"hub", "report", "tasks", "synthetic", "programs"},
    "__main__": {"cli"},
    "cli": BASEMENT | GROUND | {"training", "hub", "report", "tasks", "synthetic", "bench", "cli"},
    **{name: BASEMENT for name in BASEMENT - {"__init__"}},
    "__init__": BASEMENT | {"hub", "models", "tasks"},
}


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] in ("pretrain", "finetune", "tests"):
                yield parts[0]
            elif parts[0] == "endofm" and len(parts) > 1:
                yield parts[1] if parts[1] != "__version__" else "__init__"


def test_no_import_goes_up():
    files = sorted((ROOT / "endofm").rglob("*.py"))
    assert len(files) > 30
    for path in files:
        room = path.relative_to(ROOT / "endofm").parts[0].removesuffix(".py")
        wrong = set(imported_rooms(path)) - MAY_IMPORT[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_importing_the_library_leaves_seeds_threads_and_signals_alone():
    state = (
        "(str(numpy.random.get_state()), torch.get_rng_state().tolist(), torch.get_num_threads(),"
        " signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))"
    )
    rooms = (
        "tasks.pretraining.endofm",
        "tasks.finetuning.finetuned",
        "training.log",
        "report.views",
    )
    rooms += ("report.views", "data.corpus.prepare", "data.leakage.search")
    imports = "import endofm" + "".join(f", endofm.{room}" for room in rooms)
    code = f"import signal, numpy, torch; before = {state}; {imports}; assert before == {state}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_command_starts_without_what_only_some_work_needs():
    heavy = ("timm", "torchvision", "sklearn", "matplotlib", "wandb", "torch._dynamo")
    heavy += ("torch.distributed.fsdp", "scipy.special", "scipy.ndimage")
    code = (
        "import sys, endofm.cli, pretrain.__main__, finetune.__main__;"
        f"found = [name for name in {heavy} if name in sys.modules]; assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
