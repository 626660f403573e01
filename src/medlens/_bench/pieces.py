"""A tokenizer of any size, made from nothing: bytes, letters, the phantom's words, and then numbers until it is full."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from medlens.errors import BadInput
from medlens.phantom.questions import vocabulary

SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "▁"
LETTERS = [SPACE, "\n", *string.ascii_letters, *string.digits, *string.punctuation]
FEWEST = len(SPECIAL) + len(BYTES) + len(LETTERS)


def write_tokenizer(folder: Path, size: int) -> None:
    """Write tokenizer.json of exactly `size` pieces, for a Llama tokenizer: any text can be encoded, if need be by its bytes.

    Raises BadInput for fewer pieces than bytes and letters.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    if size < FEWEST:
        raise BadInput(f"a vocabulary of {size} is too small: bytes and letters are {FEWEST} pieces already")
    words = list(islice(_words(), size - FEWEST))
    pieces = [*SPECIAL, *BYTES, *LETTERS, *words]
    # A word is its own beginning and one more letter. What begins with a space is joined first: no word is cut in two.
    inner = models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[(word[:-1], word[-1]) for word in words],
        unk_token="<unk>", fuse_unk=True, byte_fallback=True,
    )  # fmt: skip
    made = Tokenizer(inner)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **special}, indent=2) + "\n")


def _words() -> Iterator[str]:
    """Pieces, each behind its own beginning: what the phantom says, letter by letter, first behind a space and then without
    one; and then 0, 1, 2 and so on for ever."""
    long = [word for word in vocabulary() if len(word) > 1]
    for before in (SPACE, ""):
        begun = {before + word[:end] for word in long for end in range(1, len(word) + 1)}
        yield from sorted((piece for piece in begun if len(piece) > 1), key=lambda piece: (len(piece), piece))
    yield from (f"{SPACE}{n}" for n in count())
