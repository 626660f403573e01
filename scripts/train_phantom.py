"""Train a shipped phantom from nothing: about half an hour on 2 cores. Killed, the same command goes on where it was.

python scripts/train_phantom.py [--name sound|shortcut|textonly] [--out runs/phantom-NAME] [--steps N] [--seed 0]
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import medlens
from medlens.phantom.card import card
from medlens.phantom.train import RECIPES, train

NUMBERS = ("seed", "slices", "tower_steps", "tower_batch", "steps", "hard_slices", "hard_steps", "batch", "learning_rate", "warmup")
QUESTIONS = 6_000  # on about 950 slices

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--name", choices=RECIPES, default="sound")
parser.add_argument("--out", type=Path)
for name in NUMBERS:
    parser.add_argument(f"--{name.replace('_', '-')}", type=type(getattr(RECIPES["sound"], name)), help="not the recipe's")
arguments = vars(parser.parse_args())
name, out = arguments.pop("name"), arguments.pop("out")
recipe = replace(RECIPES[name], **{key: value for key, value in arguments.items() if value is not None})
began = time.monotonic()


def show(phase: str, step: int, steps: int, loss: float) -> None:
    if step % 20 == 0 or step == steps:
        print(f"{phase} {step}/{steps}  loss {loss:.4f}  {time.monotonic() - began:.0f} s", flush=True)


folder = train(recipe, out or Path(f"runs/phantom-{name}"), show)
print("evaluating", flush=True)
found = medlens.phantom.evaluate(medlens.load(folder), n=QUESTIONS, seed=20_000)
(folder / "README.md").write_text(card(folder, recipe, found))
print(f"wrote {folder}; what to ship is all of it but checkpoint.pt")
