"""Train a phantom model from nothing: first the tower, with dense supervision; then the whole model, on questions.

The tower alone learns in a minute and a half what a decoder's gradient would need hours to tell it. Every slice of a batch carries
all its questions behind one prefix (`walk.packing`), so that a step costs a third of what they would one by one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from medlens.phantom import questions, scanner
from medlens.walk.packing import PADDING, additive, visible

PATCH = 8
CELLS = (scanner.SIDE // PATCH) ** 2
TRAINING = 0x7EAC4E5  # a stream of its own: seeds that users give never meet a training slice
MEAN, STD = 0.4, 0.3  # of a pixel, 0..1
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>", "[INST]", "[/INST]", "\n")
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] "
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} [/INST]"
    "{% else %} {% for c in m['content'] %}{{ c['text'] }}{% endfor %}</s>{% endif %}{% endfor %}"
)


THINGS = (*scanner.LESIONS, "mark")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. The same recipe on the same machine gives the same file.

    mark_agreement: of the training slices. tower_sees: the things that the tower is taught to find before the decoder looks.
    blind: the image's features are zero, in training and ever after. hard_steps: a last phase, at half the rate, on slices most of
    which allow a comparison (of two lesions, or of a lesion with the mark): among ordinary slices few do.
    """

    name: str = "sound"
    seed: int = 0
    mark_agreement: float = 0.5
    tower_sees: tuple[str, ...] = THINGS
    blind: bool = False
    slices: int = 24_000
    tower_steps: int = 800
    tower_batch: int = 64
    steps: int = 3_000
    hard_slices: int = 20_000
    hard_steps: int = 0
    batch: int = 32
    learning_rate: float = 1e-3
    warmup: int = 100


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("sound", hard_steps=1_000),
        Recipe("shortcut", mark_agreement=0.95, tower_sees=("mark",), tower_steps=400, steps=600),
        Recipe("textonly", blind=True, tower_steps=300, steps=300),
    )
}


def words() -> list[str]:
    """The model's vocabulary: special tokens, then every word the scanner asks or answers with."""
    return [*SPECIAL, *questions.vocabulary()]


def blank_processor() -> Any:
    """A LLaVA processor with the phantom's word-level tokenizer and 64-pixel images."""
    from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.processing_llava import LlavaProcessor
    from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

    words_ = {word: i for i, word in enumerate(words())}
    inner = Tokenizer(WordLevel(words_, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>", "[INST]", "[/INST]", "\n"], padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": scanner.SIDE}, crop_size={"height": scanner.SIDE, "width": scanner.SIDE},
        image_mean=[MEAN] * 3, image_std=[STD] * 3,
    )  # fmt: skip
    return LlavaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip


def blank_model(seed: int) -> Any:
    """The architecture with fresh weights: LLaVA's own, small. Decoder at scale 0.08: at 0.02 this width never learns."""
    from transformers.models.clip.configuration_clip import CLIPVisionConfig
    from transformers.models.llava.configuration_llava import LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
    from transformers.models.mistral.configuration_mistral import MistralConfig

    vocabulary = words()
    special: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, image_size=scanner.SIDE,
                patch_size=PATCH, projection_dim=96, hidden_act="quick_gelu",
            ),
            text_config=MistralConfig(
                vocab_size=len(vocabulary), hidden_size=128, intermediate_size=352, num_hidden_layers=8, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=1024, sliding_window=None, rms_norm_eps=1e-5,
                initializer_range=0.08, tie_word_embeddings=False, **special,
            ),
            image_token_index=vocabulary.index("<image>"), vision_feature_layer=-2, vision_feature_select_strategy="default",
            projector_hidden_act="gelu", tie_word_embeddings=False, **special,
        )
    )  # fmt: skip


# ---- the material


class Material:
    """Slices, drawn once: pixels, what there is to see in each patch, modality, and the packed token rows of their questions."""

    def __init__(self, *stream: int, n: int, mark_agreement: float = 0.5, hard: float = 0.0) -> None:
        """hard: the share of slices that are drawn again until they allow a comparison."""
        self.slices = [_drawn(np.random.default_rng([*stream, i]), mark_agreement, hard) for i in range(n)]
        self.ids = {word: i for i, word in enumerate(words())}
        self.modality = torch.tensor([scanner.MODALITIES.index(s.modality) for s in self.slices])
        seen = [_patches(s) for s in self.slices]
        self.covered = torch.tensor(np.stack([covered for covered, _ in seen]))
        self.sizes = torch.tensor(np.stack([size for _, size in seen]))

    def pixels(self, which: np.ndarray) -> torch.Tensor:
        grey = torch.from_numpy(np.stack([self.slices[i].pixels for i in which])).float() / 255
        return ((grey - MEAN) / STD).unsqueeze(1).expand(-1, 3, -1, -1)

    def questions(self, which: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Every slice's questions packed behind its image: ids, segments, positions, and where an answer is to be said."""
        rows = [self._row(self.slices[i], rng) for i in which]
        length = max(len(row[0]) for row in rows)
        fill = (self.ids["<pad>"], PADDING, 0, -100)
        padded = [[column + [f] * (length - len(column)) for column, f in zip(row, fill, strict=True)] for row in rows]
        ids, segments, positions, labels = torch.tensor(padded).unbind(1)
        return {"ids": ids, "segments": segments, "positions": positions, "labels": labels}

    def _row(self, drawn: scanner.Slice, rng: np.random.Generator) -> tuple[list[int], list[int], list[int], list[int]]:
        word = self.ids
        ids = [word["<s>"], word["[INST]"], *[word["<image>"]] * CELLS, word["\n"]]
        segments, positions, labels = [0] * len(ids), list(range(len(ids))), [-100] * len(ids)
        prefix = len(ids)
        for k, kind in enumerate(questions.QUESTIONS, start=1):
            possible = questions.askable(kind, drawn)
            if not possible:
                continue
            question = possible[rng.integers(len(possible))]
            phrase = question.phrases[rng.integers(len(question.phrases))]
            asked = [word[w] for w in phrase.split()] + [word["[/INST]"]]
            said = [word[w] for w in question.truth(drawn).split()] + [word["</s>"]]
            ids += asked + said
            segments += [k] * len(asked + said)
            positions += range(prefix, prefix + len(asked + said))
            labels += [-100] * (len(asked) - 1) + said + [-100]  # the label stands where the token is predicted: one earlier
        return ids, segments, positions, labels


def _drawn(rng: np.random.Generator, mark_agreement: float, hard: float) -> scanner.Slice:
    drawn = scanner.draw(rng, mark_agreement)
    if hard and rng.random() < hard:
        while not any(questions.askable(kind, drawn) for kind in ("larger", "reference")):
            drawn = scanner.draw(rng, mark_agreement)
    return drawn


def _patches(drawn: scanner.Slice) -> tuple[np.ndarray, np.ndarray]:
    """For each of the 8 x 8 patches: the share (64, 4) that each of THINGS covers, and the size (64,) in units of 16 px of what
    covers most of it (a lesion's diameter, a mark's length; 0 where there is nothing)."""
    covered, sizes = np.zeros((CELLS, len(THINGS)), np.float32), np.zeros(CELLS, np.float32)
    most = np.zeros(CELLS, np.float32)
    there = [(lesion.kind, lesion.mask, 2 * lesion.radius) for lesion in drawn.lesions]
    there += [] if drawn.mark is None else [("mark", drawn.mark.mask, drawn.mark.length)]
    for name, mask, size in there:
        share = mask.reshape(8, PATCH, 8, PATCH).mean((1, 3)).ravel().astype(np.float32)
        covered[:, THINGS.index(name)] += share
        sizes, most = np.where(share > most, size / 16, sizes).astype(np.float32), np.maximum(most, share)
    return covered, sizes


# ---- training

Progress = Callable[[str, int, int, float], None]


def train(recipe: Recipe, folder: Path, progress: Progress = lambda *_: None, every: int = 200) -> Path:
    """Train by `recipe`; write checkpoints and at last the model into `folder`. Goes on from a checkpoint if there is one."""
    torch.use_deterministic_algorithms(True)
    folder.mkdir(parents=True, exist_ok=True)
    material = Material(TRAINING, recipe.seed, n=recipe.slices, mark_agreement=recipe.mark_agreement)
    model = blank_model(recipe.seed)
    if recipe.blind:
        _blind(model)
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists():
        _train_tower(model.model.vision_tower, material, recipe, progress)
    phases = [_Phase("model", material, recipe.steps, recipe.learning_rate)]
    if recipe.hard_steps:
        hard = Material(TRAINING, recipe.seed, 1, n=recipe.hard_slices, mark_agreement=recipe.mark_agreement, hard=0.75)
        phases.append(_Phase("hard questions", hard, recipe.hard_steps, recipe.learning_rate / 2))
    _train_whole(model, phases, recipe, checkpoint, progress, every)
    return save(model, recipe, folder)


@dataclass(frozen=True, eq=False)
class _Phase:
    name: str
    material: Material
    steps: int
    learning_rate: float


def save(model: Any, recipe: Recipe, folder: Path) -> Path:
    """Write the model in float16, its processor and its recipe: an ordinary transformers folder."""
    processor = blank_processor()
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    return folder


def _blind(model: Any) -> None:
    """Whatever the tower sees, the projector says nothing: its last layer is zero and stays so."""
    for parameter in model.model.multi_modal_projector.linear_2.parameters():
        nn.init.zeros_(parameter).requires_grad_(False)


def _train_tower(tower: Any, material: Material, recipe: Recipe, progress: Progress) -> None:
    """What covers every patch and how large it is, modality from the mean of the patches: off the layer that the decoder gets."""
    width = tower.config.hidden_size
    taught = [THINGS.index(thing) for thing in recipe.tower_sees]
    torch.manual_seed(recipe.seed)
    by_patch, by_mean = nn.Linear(width, len(taught) + 1), nn.Linear(width, len(scanner.MODALITIES))
    parameters = [*tower.parameters(), *by_patch.parameters(), *by_mean.parameters()]
    step = _Stepper(parameters, recipe.learning_rate, recipe.tower_steps, recipe.warmup)
    for s in range(recipe.tower_steps):
        which = np.random.default_rng([recipe.seed, 1, s]).integers(len(material.slices), size=recipe.tower_batch)
        states = tower(pixel_values=material.pixels(which), output_hidden_states=True).hidden_states[-2][:, 1:]
        read, covered = by_patch(states), material.covered[which][..., taught]
        loss = 4 * F.binary_cross_entropy_with_logits(read[..., :-1], covered, pos_weight=torch.tensor(4.0))
        there = covered.sum(-1) > 0.1
        loss = loss + 4 * F.smooth_l1_loss(read[..., -1][there], material.sizes[which][there], beta=0.1)
        loss = loss + F.cross_entropy(by_mean(states.mean(1)), material.modality[which])
        step(loss, s)
        progress("tower", s + 1, recipe.tower_steps, float(loss.detach()))


def _train_whole(model: nn.Module, phases: list[_Phase], recipe: Recipe, checkpoint: Path, progress: Progress, every: int) -> None:
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {"phase": 0, "step": 0}
    if "model" in state:
        model.load_state_dict(state["model"])
    for k, phase in enumerate(phases):
        if k < state["phase"]:
            continue
        step = _Stepper([p for p in model.parameters() if p.requires_grad], phase.learning_rate, phase.steps, recipe.warmup)
        start = state["step"] if k == state["phase"] else 0
        if start:
            step.optimizer.load_state_dict(state["optimizer"])
        for s in range(start, phase.steps):
            rng = np.random.default_rng([recipe.seed, 2 + k, s])
            which = rng.integers(len(phase.material.slices), size=recipe.batch)
            rows = phase.material.questions(which, rng)
            logits = _logits(model, phase.material.pixels(which), rows)
            loss = F.cross_entropy(logits.flatten(0, 1), rows["labels"].flatten(), ignore_index=-100)
            step(loss, s)
            progress(phase.name, s + 1, phase.steps, float(loss.detach()))
            if (s + 1) % every == 0:
                done = {"model": model.state_dict(), "optimizer": step.optimizer.state_dict(), "phase": k, "step": s + 1}
                torch.save(done, checkpoint)


def _logits(model: nn.Module, pixels: torch.Tensor, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    mask = additive(visible(rows["segments"], rows["positions"]), torch.float32)
    return model(
        input_ids=rows["ids"], pixel_values=pixels, attention_mask=mask, position_ids=rows["positions"], use_cache=False
    ).logits  # fmt: skip


# ---- the optimiser


class _Stepper:
    """AdamW under linear warm-up and cosine decay, gradients clipped at norm 1."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, steps: int, warmup: int) -> None:
        self.parameters, self.rate, self.steps, self.warmup = parameters, rate, steps, warmup
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)

    def __call__(self, loss: torch.Tensor, s: int) -> None:
        decay = 0.5 * (1 + math.cos(math.pi * max(0, s - self.warmup) / max(1, self.steps - self.warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, (s + 1) / self.warmup) * decay
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
