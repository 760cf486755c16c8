"""What docs/cluster.md tells people to write down is read by accelerate, and its script runs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

import endofm
from endofm.config import to_yaml
from endofm.models.build import ModelConfig
from endofm.tasks.pretraining.endofm import ObjectiveConfig, build_task
from endofm.training.sharding import sharding_plugin
from tests.processes import PATIENCE, ROOT, free_port
from tests.small import VIEWS, small_recipe, write_corpus

TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def launched(text, tmp_path, *flags):
    """The settings that `accelerate launch` would give every process."""
    file = tmp_path / "accelerate.yaml"
    file.write_text(text)
    arguments = ["--config_file", str(file), *flags, "-m", "pretrain", "--config", "recipe.yaml"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    return arguments, prepare_multi_gpu_env(arguments)


def test_accelerate_reads_the_configuration_of_several_nodes(tmp_path):
    several, _ = blocks("yaml")
    flags = ("--machine_rank", "1", "--main_process_ip", "node7")
    arguments, environment = launched(several, tmp_path, *flags)
    assert arguments.multi_gpu and not arguments.use_fsdp
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "4", 1)
    assert arguments.rdzv_endpoint == "node7:29500" and arguments.rdzv_backend == "static"
    assert environment.get("ACCELERATE_USE_FSDP", "false") == "false"


def test_accelerate_reads_the_configuration_that_divides_weights(tmp_path, monkeypatch):
    _, divided = blocks("yaml")
    arguments, environment = launched(divided, tmp_path)
    assert arguments.use_fsdp and arguments.num_processes == 4
    for name, value in environment.items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    plugin = sharding_plugin()
    assert plugin is not None and plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    task, _ = build_task(ModelConfig(name="timesformer_mini"), VIEWS, ObjectiveConfig(prototypes=8))
    plugin.set_auto_wrap_policy(task)
    wrapped = {kind.__name__ for kind in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]}
    assert wrapped == {"DividedBlock", "ProjectionHead"}


def test_every_command_has_the_syntax_of_bash():
    commands = blocks("bash")
    assert len(commands) == 7
    for command in commands:
        done = subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True)
        assert done.returncode == 0 and not done.stderr, command


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["two_nodes", "divided_weights"])
def test_accelerate_launch_runs_the_configurations_on_cpus(tmp_path, number):
    (tmp_path / "accelerate.yaml").write_text(blocks("yaml")[number])
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(to_yaml(small_recipe(write_corpus(tmp_path / "corpus"), out)))
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(tmp_path / "accelerate.yaml"), "--num_processes", "2"]
    command += ["--main_process_port", str(free_port())]
    at_node = [["--machine_rank", str(node), "--main_process_ip", "127.0.0.1"] for node in (0, 1)]
    environment = {
        **os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    processes = [
        subprocess.Popen([*command, *flags, "-m", "pretrain", "--config", str(recipe)],
                         cwd=ROOT, env=environment)
        for flags in ([[]] if number else at_node)
    ]  # fmt: skip
    assert [process.wait(PATIENCE) for process in processes] == [0] * len(processes)
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert (checkpoint / "random_states_1.pkl").exists()
    assert (checkpoint / "pytorch_model_fsdp_0").is_dir() is bool(number)
    assert endofm.load(out / "model").width == 128


STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo node0; echo node1; else echo "$@" >>told; fi',
    "srun": 'shift; "$@" & child=$!; trap "kill -TERM $child" TERM; wait $child || wait $child',
    "accelerate": """echo "$@" >>told
[ -n "$FAILS" ] && exit 1
trap 'sleep 0.3; echo saved >>told; exit 143' TERM
for _ in $(seq 100); do sleep 0.1; done""",
}


@pytest.fixture
def job(tmp_path):
    """The job's script, with stand-ins for the commands of a cluster."""
    script = next(block for block in blocks("bash") if block.startswith("#!"))
    (tmp_path / "pretrain.sbatch").write_text(script)
    (tmp_path / "bin").mkdir()
    for name, body in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!{shutil.which('bash')}\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def start(**environment):
        settings = {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NODEID": "1", "SLURM_JOB_ID": "77"}
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", "pretrain.sbatch"],
            cwd=tmp_path,
            env={**os.environ, **settings, **environment, "PATH": path},
        )

    return start


def told(folder):
    file = folder / "told"
    return file.read_text().splitlines() if file.exists() else []


def test_a_job_that_is_stopped_saves_and_goes_back_into_the_queue(job, tmp_path):
    process = job(FAILS="")
    deadline = time.monotonic() + 60
    while not told(tmp_path):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)  # until the stand-in listens
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    command, *rest = told(tmp_path)
    assert "--machine_rank 1 --main_process_ip node0 -m pretrain" in command
    assert "--run.out runs/paper" in command
    assert rest == ["saved", "requeue 77"]


def test_a_job_that_fails_by_itself_does_not_come_back(job, tmp_path):
    assert job(FAILS="1").wait(60) == 1
    assert len(told(tmp_path)) == 1
