#!/usr/bin/env python3
"""Write a checkpoint in LLaVA-Med's original layout with random weights, of any size: to try what a machine can do.

By default it has the original's own size, 15.1 GB (and 0.6 GB of external vision tower). Its config.json names that tower by where
it lies, so write it where it is to stay. For example:

    tools/make_random_checkpoint.py --depth 4 --tower small runs/m
    medlens study runs/m phantom --limit 12 --max-new-tokens 2
"""

import argparse
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"


def use_venv() -> None:
    """Go on in the project's own Python where this one has no torch."""
    if importlib.util.find_spec("torch") and importlib.util.find_spec("medlens"):
        return
    python = VENV / "bin" / "python"
    if not python.is_file() or Path(sys.prefix) == VENV:
        sys.exit(
            f"{Path(__file__).name}: this Python has no medlens and torch: run `make setup`, then .venv/bin/python {sys.argv[0]}"
        )
    os.execv(python, [str(python), *sys.argv])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where it goes; must not exist, or be empty")
    numbers = {"depth": 32, "width": 4096, "mlp": 14336, "heads": 32, "kv-heads": 8, "vocabulary": 32000, "seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
    towers = ("large", "small", "tiny")
    parser.add_argument("--tower", choices=towers, default="large", help="small: 576 image tokens, as large; tiny: 16")
    return parser.parse_args()


def main() -> None:
    chosen = parse()
    use_venv()
    from medlens._bench.checkpoint import Decoder, needed, write_checkpoint
    from medlens.errors import MedlensError

    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that what was begun is cleaned up
    began = time.monotonic()

    def tell(done: int, whole: int) -> None:
        print(f"{done / 1e9:8.3f} of {whole / 1e9:.3f} GB, {time.monotonic() - began:.0f} s", flush=True)

    try:
        decoder = Decoder(chosen.depth, chosen.width, chosen.mlp, chosen.heads, chosen.kv_heads, chosen.vocabulary)
        print(f"{chosen.folder} will take {needed(decoder, chosen.tower) / 1e9:.2f} GB of disk", flush=True)
        write_checkpoint(chosen.folder, decoder, chosen.tower, chosen.seed, tell)
    except MedlensError as e:
        sys.exit(f"{Path(__file__).name}: {e}")
    except KeyboardInterrupt:
        sys.exit(f"{Path(__file__).name}: stopped; nothing half-written was left behind")
    print(f"wrote {chosen.folder}")


if __name__ == "__main__":
    main()
