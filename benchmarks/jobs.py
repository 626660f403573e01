"""One job of the benchmark, in a process of its own: prints seconds and the growth of peak memory as JSON.

python benchmarks/jobs.py JOB ROWS COLUMNS
"""

import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def rows(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer pair as hidden states are: float32, a falling spectrum, a residual stream with a smaller non-linear update."""
    torch.manual_seed(0)
    x = torch.randn(n, d) * torch.logspace(0, -1.5, d) + torch.randn(d)
    return x, x + 0.3 * torch.tanh(x @ torch.randn(d, d) / d**0.5)


def theirs():
    """llm-microscope's functions, by path: the package fails when it is imported whole."""
    found = importlib.util.find_spec("llm_microscope")
    if found is None or not found.submodule_search_locations:
        sys.exit("llm-microscope is not installed: make bench installs it")
    path = Path(found.submodule_search_locations[0]) / "functions.py"
    spec = importlib.util.spec_from_file_location("llm_microscope_functions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def linear_ours(x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    from medlens.measures import anisotropy_from_sums, linearity_from_sums, linearity_of_update_from_sums
    from medlens.stats import PairSums

    def run() -> object:
        pairs = PairSums.of(x, y, moments_of_y=False)
        return linearity_from_sums(pairs), linearity_of_update_from_sums(pairs), anisotropy_from_sums(pairs.x)

    return run


def linear_theirs(x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    f = theirs()
    return lambda: (f.procrustes_similarity(x, y), f.procrustes_similarity_centered(x, y), f.calculate_anisotropy_torch(x))


def dimension_ours(x: torch.Tensor, _y: torch.Tensor) -> Callable[[], object]:
    from medlens import intrinsic_dimension

    return lambda: intrinsic_dimension(x, keep=0.2)


def dimension_theirs(x: torch.Tensor, _y: torch.Tensor) -> Callable[[], object]:
    f = theirs()
    return lambda: f.intrinsic_dimension(x, "cpu")


def help_ours(_x: torch.Tensor, _y: torch.Tensor) -> Callable[[], object]:
    command = Path(sys.executable).parent / "medlens"
    return lambda: subprocess.run([command, "--help"], check=True, capture_output=True)


def walk_packed(_x: torch.Tensor, _y: torch.Tensor) -> Callable[[], object]:
    return _walk(one_by_one=False)


def walk_one_by_one(_x: torch.Tensor, _y: torch.Tensor) -> Callable[[], object]:
    return _walk(one_by_one=True)


FIVE = ("presence", "type", "place", "side", "modality")  # asked of every slice with at most one lesion


def _walk(one_by_one: bool) -> Callable[[], object]:
    """Prompts of 100 questions, mostly five an image, through the phantom."""
    import medlens
    from medlens.walk.cases import cases
    from medlens.walk.forward import prepare, walk

    model = medlens.load("phantom")
    prompts = [prepare(model, s, s.answer) for s in medlens.phantom.samples(100, questions=FIVE)]
    laid = [c for p in prompts for c in cases(model, [p])] if one_by_one else cases(model, prompts)
    return lambda: walk(model, laid, [])


if __name__ == "__main__":
    name, n, d = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (20 << 30, 20 << 30))  # a job that runs out of memory must not take the machine along
    job = globals()[name](*rows(n, d))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    job()
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": seconds, "mib": grown / 1024}))
