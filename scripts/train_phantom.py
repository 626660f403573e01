"""Train the shipped phantom from nothing: about 25 minutes on 2 cores. Killed, the same command goes on where it was.

python scripts/train_phantom.py [--out runs/phantom-sound] [--steps 2000] [--seed 0]
"""

import argparse
import time
from dataclasses import fields
from pathlib import Path

from medlens.phantom.train import Recipe, train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("runs/phantom-sound"))
for field in fields(Recipe):
    parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
arguments = vars(parser.parse_args())
out = arguments.pop("out")
began = time.monotonic()


def show(phase: str, step: int, steps: int, loss: float) -> None:
    if step % 20 == 0 or step == steps:
        print(f"{phase} {step}/{steps}  loss {loss:.4f}  {time.monotonic() - began:.0f} s", flush=True)


print(f"wrote {train(Recipe(**arguments), out, show)}")
