"""How often the report card trusts a map, on models whose inside is known: the table in docs/faithfulness.md.

python scripts/card_errors.py [images]
"""

from __future__ import annotations

import sys
from collections import Counter

import medlens
from medlens.stats.intervals import wilson

MODELS = ("phantom", "phantom:shortcut", "phantom:textonly", "phantom:random")
METHODS = ("integrated_gradients", "relevance", "gradcam_attention", "centre")
SEED = 60_000


def main(images: int) -> None:
    drawn = medlens.phantom.samples(8 * images, SEED, "presence")
    chosen = [s for s in drawn if [r.name != "mark" for r in s.regions].count(True) == 1][:images]
    print(f"presence of one lesion, {len(chosen)} images, seed {SEED}: share of maps that are trusted\n")
    print(f"| model | {' | '.join(METHODS)} |\n| --- |{' --- |' * len(METHODS)}")
    for name in MODELS:
        model, trusted = medlens.load(name), Counter()
        for sample in chosen:
            found = medlens.explain(model, sample, target=sample.answer, methods=METHODS, tokens=False)
            trusted.update(card.method for card in found.cards if card.verdict == "trust")
        cells = []
        for method in METHODS:
            low, high = wilson(trusted[method] / len(chosen), len(chosen))
            cells.append(f"{trusted[method] / len(chosen):.2f} ({low:.2f}–{high:.2f})")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
