"""The lens against plain softmax over the whole vocabulary, and against the model's own logits."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import medlens
from medlens.budget import Meter, anonymous_memory
from medlens.measures.lens import likeliest, said
from medlens.models.unembedding import Unembedding
from medlens.models.weights import Place, Weights


def in_blocks(head, block):
    def logits(rows):
        for begin in range(0, len(head), block):
            yield begin, rows @ head[begin : begin + block].T

    return logits


@pytest.fixture(params=[1, 7, 100, 1000])
def case(request):
    torch.manual_seed(3)
    head, rows, final = torch.randn(100, 16), 5 * torch.randn(9, 16), 5 * torch.randn(9, 16)
    return head.double(), rows.double(), final.double(), in_blocks(head.double(), request.param)


def test_words_probabilities_and_entropy(case):
    head, rows, _, logits = case
    found = likeliest(rows, logits, 5)
    p = (rows @ head.T).softmax(-1)
    expected, ids = p.topk(5)
    assert torch.equal(found.ids, ids)
    assert torch.allclose(found.log_p.exp(), expected)
    assert torch.allclose(found.entropy, -(p * p.log()).sum(-1))


def test_kl_rank_and_log_odds(case):
    head, rows, final, logits = case
    words = torch.tensor([0, 99, 50, 6, 7, 8, 13, 14, 98])
    found = said(rows, final, words, logits)
    p, q = (final @ head.T).softmax(-1), (rows @ head.T).softmax(-1)
    own = q[range(9), words]
    assert torch.allclose(found.kl, (p * (p.log() - q.log())).sum(-1))
    assert torch.equal(found.rank, 1.0 + (q > own[:, None]).sum(-1))
    assert torch.allclose(found.log_p, own.log())
    assert torch.allclose(found.log_odds, (own / (1 - own)).log(), atol=1e-6)


def test_a_word_that_is_sure_keeps_its_log_odds():
    """1 - p has no digits left in float32, nor has log(1 - p): the others are summed by themselves."""
    head, rows = 60 * torch.eye(4), torch.eye(4)[:1]
    found = said(rows, rows, torch.tensor([0]), in_blocks(head, 2))
    assert float(found.log_odds[0]) == pytest.approx(60 - torch.log(torch.tensor(3.0)).item(), abs=1e-5)


def test_words_that_are_none():
    with pytest.raises(ValueError, match="no rows"):
        likeliest(torch.zeros(0, 4), in_blocks(torch.eye(4), 2))
    with pytest.raises(ValueError, match=r"\[4\] are not in the vocabulary"):
        said(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([4]), in_blocks(torch.eye(4), 2))


@pytest.mark.parametrize("block", [16, 2048])
def test_the_last_layer_says_what_the_model_says(block):
    model = medlens.load("phantom")
    seen = medlens.forward(model, medlens.phantom.samples(3, seed=1)[2])
    unembedding = Unembedding(model, block)
    logits = torch.cat([part for _, part in unembedding.logits(seen.hidden_states[-1])], 1)
    assert (logits - seen.logits[:, : unembedding.words]).abs().max() < 1e-5
    ids = torch.tensor([5, 60, 7])
    assert (unembedding.of_words(seen.hidden_states[-1], ids) - seen.logits[:, ids]).abs().max() < 1e-5


def test_a_streamed_head_is_read_row_by_row():
    resident, streamed = medlens.load("phantom"), medlens.load("phantom", memory="100MiB")
    rows = torch.randn(3, resident.width)
    pairs = zip(Unembedding(resident, 16).logits(rows), Unembedding(streamed, 16).logits(rows), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.slow
def test_the_vocabulary_step_stays_small(tmp_path):
    """A head as large as Mistral's, in its file: 512 tokens read with less than 200 MB beside it, which itself takes 524."""
    words, width = 32_000, 4096
    save_file({"w": torch.zeros(words, width, dtype=torch.bfloat16)}, tmp_path / "head.safetensors")
    head = torch.nn.Linear(width, words, bias=False, device="meta")
    place = Place(tmp_path / "head.safetensors", "w", 0, 0, (words, width))
    weights = Weights(head, {"weight": place}, torch.float32, torch.device("cpu"))
    model = SimpleNamespace(
        name="", family="", head=head, weights=weights, names_of={"head": ["weight"]}, text_config=None, tokenizer=range(words)
    )
    logits = Unembedding(model).logits  # pyright: ignore[reportArgumentType]
    rows = torch.ones(512, width)
    before = anonymous_memory()
    with Meter() as meter:
        found = likeliest(rows, logits)
        kl = said(rows, rows, torch.zeros(512, dtype=torch.int64), logits).kl
    assert meter.peak - before < 200e6
    assert found.entropy.allclose(torch.tensor(words).double().log())  # all words alike
    assert kl.abs().max() < 1e-9
