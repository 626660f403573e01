"""The way back gives the gradients of transformers' own forward, whatever the family, the packing, and where states wait."""

from contextlib import ExitStack, nullcontext

import pytest
import torch

import bare
import medlens
import tiny
from medlens import hooks
from medlens.errors import BadInput, NotFinite
from medlens.models import load
from medlens.models.families import SHARE_IMAGES
from medlens.walk.cases import arguments, cases
from medlens.walk.forward import prepare, steps
from medlens.walk.reverse import reverse, steps_back
from medlens.walk.room import Files, Room, Spill
from medlens.walk.target import Target, Word, next_word, whole_answer
from medlens.walk.way import enter, through

SAMPLES = medlens.phantom.samples(5, seed=11, questions=("presence", "type", "place", "side", "modality"))
QUESTIONS = ("is there a lesion on the image?", "a lesion")
TOLERANCE = 1e-5  # of the largest entry


def close(ours, theirs):
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Keep:
    """A tracer that keeps every gradient by sample, target, name of the tensor and layer; `inside` names tensors, or none."""

    def __init__(self, inside=None):
        self.gradients, self.values, self.states, self.left = {}, {}, {}, []
        self.name, self.collect = inside, INSIDE.get(inside, lambda block: nullcontext([]))

    def _key(self, case, target, name, layer):
        return case.prompts[target.branch].sample.id, target.said, target.against, name, layer

    def begin(self, case, target, value, state, gradient):
        layer = "last"
        self.values[self._key(case, target, "y", layer)] = torch.tensor(value)
        self.gradients[self._key(case, target, "state", layer)] = gradient.clone()

    def inside(self, block, module):
        return self.collect(module)

    def visit(self, block, case, target, state, gradient, traced):
        self.gradients[self._key(case, target, "state", block)] = gradient.clone()
        self.states[case.image, block] = state
        for tensor in traced:
            assert not tensor.value.requires_grad
            self.gradients[self._key(case, target, self.name, block)] = tensor.gradient[0].clone()
            self.gradients[self._key(case, target, f"value of {self.name}", block)] = tensor.value[0].clone()

    def leave(self, block):
        self.left.append(block)


INSIDE = {"attention": hooks.attentions_of, "units": lambda block: hooks.inputs_of(block.mlp.down_proj)}


def some_targets(case, branch):
    """Of each kind one: the whole answer, a contrast, words that are not said."""
    after = case.prompts[branch].tokens.where("answer")[0] - 1
    several = Target((Word(after, 7), Word(after - 1, 9)), (Word(after, 8),), branch)
    return [whole_answer(case, branch), next_word(case, 7, against=8, branch=branch), several]


def all_gradients(model, laid, room, targets=some_targets):
    tracers = [Keep("attention"), Keep("units"), Keep()]
    aims = [[t for k in range(len(case.prompts)) for t in targets(case, k)] for case in laid]
    with hooks.attention(model.module, "eager"):
        reverse(model, laid, aims, tracers, room)
    assert all(t.left == list(reversed(range(room.kept_from, model.depth))) for t in tracers)
    return tracers[0].gradients | tracers[1].gradients | tracers[0].values


def files(model, laid, folder, kept_from=0):
    return Files(folder, [len(c.pack.ids) for c in laid], model.width, model.dtype, model.device, kept_from=kept_from)


def autograd(model, case, target):
    """The same by transformers' own forward of one prompt and one backward pass through all of it."""
    assert len(case.prompts) == 1
    downs = [block.mlp.down_proj for block in model.blocks]
    with ExitStack() as stack:
        stack.enter_context(hooks.attention(model.module, "eager"))
        entered, units = (stack.enter_context(hooks.inputs_of_each(m)) for m in ([*model.blocks, model.norm], downs))
        out = model.module(**arguments(model, case), use_cache=False, output_attentions=True)
    logprobs = out.logits[0].double().log_softmax(-1)
    y = sum(logprobs[w.after, w.id] for w in target.said) - sum(logprobs[w.after, w.id] for w in target.against)
    found = iter(torch.autograd.grad(y, [*entered, *out.attentions, *units]))
    key = case.prompts[0].sample.id, target.said, target.against
    layers = [*range(model.depth), "last"]
    gradients = {(*key, "state", b): next(found)[0] for b in layers}
    gradients |= {(*key, name, b): next(found)[0] for name in ("attention", "units") for b in range(model.depth)}
    values = {(*key, "value of attention", b): a[0].detach() for b, a in enumerate(out.attentions)}
    values |= {(*key, "value of units", b): u[0].detach() for b, u in enumerate(units)}
    return gradients | values | {(*key, "y", "last"): y.detach().float()}


def same(key, ours, theirs):
    """As `close`; values, which are sums of logits, to what float32 keeps of those."""
    return float((ours - theirs).abs()) < 1e-4 if key[3] == "y" else close(ours, theirs)


def assert_autograd(model, prompts, found):
    for prompt in prompts:
        (alone,) = cases(model, [prompt])
        for target in some_targets(alone, 0):
            for key, theirs in autograd(model, alone, target).items():
                assert same(key, found[key], theirs), key


def alone_and_packed(model, prompts):
    one_by_one = [case for prompt in prompts for case in cases(model, [prompt])]
    return (all_gradients(model, laid, Room(kept_from=0)) for laid in (one_by_one, cases(model, prompts)))


# ---- equal to one backward pass through everything


def check_everything(resident, streamed, prompts, folder):
    alone, packed = alone_and_packed(resident, prompts)
    assert_autograd(resident, prompts, alone)
    laid = cases(resident, prompts)
    assert equal(packed, all_gradients(resident, laid, files(resident, laid, folder)))
    if streamed is not None:
        laid = cases(streamed, [prepare(streamed, p.sample, p.sample.answer) for p in prompts])
        assert equal(packed, all_gradients(streamed, laid, Room(kept_from=0)))
        assert equal(packed, all_gradients(streamed, laid, files(streamed, laid, folder)))
    assert list(folder.iterdir()) == []


def test_the_phantom(tmp_path):
    resident, streamed = load("phantom"), load("phantom", memory="100kB")
    check_everything(resident, streamed, [prepare(resident, s, s.answer) for s in SAMPLES[:3]], tmp_path)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family(family, tmp_path):
    module, processor = tiny.build(family)
    module.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    resident, streamed = load(tmp_path / "model"), load(tmp_path / "model", memory=1000)
    (tmp_path / "room").mkdir()
    check_everything(resident, streamed, [prepare(resident, s, s.answer) for s in SAMPLES[:2]], tmp_path / "room")


@pytest.mark.parametrize("family", bare.FAMILIES)
def test_every_bare_family(family, tmp_path):
    """Among them one that adds features to the states between blocks."""
    model, look = bare.build(family)
    prompts = [bare.prompt(model, look, question, "yes") for question in QUESTIONS]
    check_everything(model, None, prompts, tmp_path)


# ---- packed: equal to one by one, in float64, because random blocks amplify the rounding of another batch


def assert_packed(model, prompts):
    """A target's gradient in a pack: at the places of its prompt what it is alone, and nothing elsewhere."""
    alone, packed = alone_and_packed(model, prompts)
    (case,) = cases(model, prompts)
    for branch, prompt in enumerate(case.prompts):
        rows = case.pack.rows(branch)
        others = [i for i in range(len(case.pack.ids)) if i not in rows]
        for key in (key for key in alone if key[0] == prompt.sample.id):
            whole, name = packed[key], key[3]
            if name in ("state", "units"):
                assert not whole[others].any()
            own = whole if name == "y" else whole[:, rows][:, :, rows] if "attention" in name else whole[rows]
            assert same(key, own, alone[key]), key


def in_float64(module, processor):
    return load(module.double(), processor)


@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f in SHARE_IMAGES])
def test_packed_is_one_by_one(family):
    model = in_float64(*tiny.build(family))
    assert_packed(model, [prepare(model, s, s.answer) for s in SAMPLES[:3]])


@pytest.mark.parametrize("family", [f for f in bare.FAMILIES if f in SHARE_IMAGES])
def test_packed_is_one_by_one_in_bare_families(family):
    model, look = bare.build(family)
    model.module.double()
    look.inputs["pixel_values"] = look.inputs["pixel_values"].double()
    assert_packed(model, [bare.prompt(model, look, question, "yes") for question in QUESTIONS])


def test_packed_in_the_phantom():
    model = load("phantom")
    model = in_float64(model.module, model.processor)
    assert_packed(model, [prepare(model, s, s.answer) for s in SAMPLES])


def test_packed_with_a_window_shorter_than_the_prefix(tiny_llava):
    model = tiny_llava(sliding_window=16)
    model = in_float64(model.module, model.processor)
    assert_packed(model, [prepare(model, s, s.answer) for s in SAMPLES[:3]])


# ---- equal to finite differences


def test_finite_differences():
    """Of the target along its gradient and along a random direction in a state, by transformers' own forward in float64."""
    model = load("phantom")
    model = in_float64(model.module, model.processor)
    laid = cases(model, [prepare(model, SAMPLES[1], SAMPLES[1].answer)])
    target = next_word(laid[0], 7, against=8)
    keep = Keep()
    reverse(model, laid, [[target]], [keep], Room(kept_from=0))
    (word,), (other,) = target.said, target.against

    def y(block, change):
        handle = block.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + change, *inputs[1:]))
        with torch.no_grad():
            row = model.module(**arguments(model, laid[0]), use_cache=False).logits[0, word.after].log_softmax(-1)
        handle.remove()
        return float(row[word.id] - row[other.id])

    torch.manual_seed(0)
    for b in (0, 3, 7):
        gradient = keep.gradients[SAMPLES[1].id, target.said, target.against, "state", b]
        for direction in (gradient / gradient.norm(), torch.randn_like(gradient) / gradient.numel() ** 0.5):
            step = 0.01 * direction  # no smaller: norms and softmax compute in float32, whatever the model does
            slope = (y(model.blocks[b], step) - y(model.blocks[b], -step)) / 0.02
            assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-2), b


# ---- targets


@pytest.fixture
def laid(phantom):
    """The questions on one image, in a pack."""
    found = cases(phantom, [prepare(phantom, s, s.answer) for s in SAMPLES])
    assert [len(case.prompts) for case in found] == [5]
    return found


def state_gradients(model, laid, target, b=4):
    keep = Keep()
    reverse(model, laid, [[target]], [keep], Room(kept_from=b))
    return next(g for key, g in keep.gradients.items() if key[3:] == ("state", b)), next(iter(keep.values.values()))


def test_a_target_is_the_sum_of_its_words(phantom, laid):
    (case,) = laid
    target = whole_answer(case, 1)
    assert len(target.said) >= 1
    words = (*target.said, Word(target.said[0].after - 1, 9), Word(target.said[0].after, 8))
    ones = [state_gradients(phantom, laid, Target((word,), (), 1)) for word in words]
    both, y = state_gradients(phantom, laid, Target(words[:-1], words[-1:], 1))
    assert close(both, sum(g for g, _ in ones[:-1]) - ones[-1][0])
    assert float(y) == pytest.approx(float(sum(v for _, v in ones[:-1]) - ones[-1][1]), rel=1e-5)


def test_the_answer_is_what_generation_said(phantom):
    """The value of a target is the log-probability that generation gave those very tokens."""
    said = medlens.answer(phantom, SAMPLES[2])
    (case,) = cases(phantom, [prepare(phantom, SAMPLES[2], str(said))])
    _, y = state_gradients(phantom, [case], whole_answer(case), b=8 - 1)
    assert float(y) == pytest.approx(sum(said.logprobs[: len(whole_answer(case).said)]), abs=1e-4)
    assert next_word(case, said.ids[0]).said == whole_answer(case).said[:1]
    (asked,) = cases(phantom, [prepare(phantom, SAMPLES[2])])
    assert next_word(asked, 7) == next_word(case, 7)


@pytest.mark.parametrize("wrong", ["shifted", "another token", "another branch", "without its contrast"])
def test_another_target_has_other_gradients(phantom, laid, wrong):
    """Negative control."""
    (word,), against = next_word(laid[0], 7, against=8, branch=2).said, (Word(next_word(laid[0], 7, branch=2).said[0].after, 8),)
    other = {
        "shifted": Target((Word(word.after - 1, 7),), (Word(word.after - 1, 8),), 2),
        "another token": Target((Word(word.after, 9),), against, 2),
        "another branch": next_word(laid[0], 7, against=8, branch=3),
        "without its contrast": Target((word,), (), 2),
    }[wrong]
    right, _ = state_gradients(phantom, laid, Target((word,), against, 2))
    assert not torch.allclose(state_gradients(phantom, laid, other)[0], right, atol=0.05 * float(right.abs().max()))


def test_targets_that_are_none_are_refused(phantom, laid):
    tokens = len(laid[0].prompts[0].tokens)
    name = laid[0].prompts[0].sample.id
    for target, said in {
        Target(()): "a target without words",
        Target((Word(tokens, 7),)): rf"sample {name}: a target behind position {tokens} of {tokens}",
        Target((Word(-1, 7),)): "behind position -1",
        Target((Word(3, 7),), (Word(3, 70),)): r"a target of token 70; the head predicts 0 to 69",
        Target((Word(3, 7),), branch=5): "branch 5 of a case with 5",
    }.items():
        with pytest.raises(BadInput, match=said):
            reverse(phantom, laid, [[target]], [], Room(kept_from=0))
    with pytest.raises(BadInput, match="1 cases, but 0 lists"):
        reverse(phantom, laid, [], [], Room(kept_from=0))
    with pytest.raises(BadInput, match="has no answer"):
        whole_answer(cases(phantom, [prepare(phantom, SAMPLES[0])])[0])


def test_a_sure_word_has_a_gradient():
    """Where p is 1 to float32, 1 - p is not 0: log_softmax is taken in float64."""
    model = load("phantom")
    with torch.no_grad():
        model.head.weight *= 3
    said = medlens.answer(model, SAMPLES[2])
    (case,) = cases(model, [prepare(model, SAMPLES[2])])
    gradient, y = state_gradients(model, [case], next_word(case, said.ids[0]))
    assert -1e-6 < float(y) < 0
    assert gradient.abs().max() > 0


# ---- how much is done


def test_targets_share_the_second_run_of_a_block(phantom, laid):
    """And blocks further down than asked, and cases without targets, are left alone."""
    two = [*laid, *cases(phantom, [prepare(phantom, s) for s in medlens.phantom.samples(1, seed=3)])]
    for targets in ([], [next_word(laid[0], 7)], [t for k in range(5) for t in some_targets(laid[0], k)]):
        room, calls, ticks = Room(kept_from=5), [], []
        with hooks.while_each_works(phantom.blocks, calls.append, lambda b: None):
            list(steps(phantom, two, [], lambda: None, room))
            assert calls == [b for b in range(8) for _ in two]
            calls.clear()
            list(steps_back(phantom, two, [targets, []], [], lambda ticks=ticks: ticks.append(1), room))
        assert calls == ([7, 6, 5] if targets else [])
        assert len(ticks) == 2 * 3


def test_the_room_is_empty_when_all_have_come_back(phantom, laid, tmp_path):
    """What was kept, and nothing else, waits on the way; nothing is left."""
    targets = [some_targets(laid[0], 0)]
    room = files(phantom, laid, tmp_path, kept_from=5)
    list(steps(phantom, laid, [], lambda: None, room))
    names = lambda: sorted(path.name for path in tmp_path.iterdir())
    assert names() == [f"state-{b:02d}.bin" for b in (5, 6, 7, 8)]
    for b in steps_back(phantom, laid, targets, [], lambda: None, room):
        assert names() == [f"state-{k:02d}.bin" for k in range(5, b + 1)]
    assert names() == []
    room = Room(kept_from=5)
    reverse(phantom, laid, targets, [], room)
    assert room._states == {}
    assert list(room._kept) == [("way", 0)]


def test_a_tensor_takes_the_place_of_one_that_was_dropped(tmp_path):
    spill = Spill(tmp_path)
    kept = [spill.keep(torch.full((5,), float(k))) for k in range(3)]
    end = spill._end
    for k in range(10):
        spill.drop(kept[1])
        kept[1] = spill.keep(torch.full((5,), 10.0 + k))
    assert spill._end == end
    assert [float(spill.fetch(x)[0]) for x in kept] == [0, 19, 2]
    spill.drop(kept[0])
    longer, same = spill.keep(torch.full((6,), 7.0)), spill.keep(torch.full((5,), 8.0))
    assert [float(spill.fetch(x)[0]) for x in (longer, same, kept[1], kept[2])] == [7, 8, 19, 2]


def test_only_one_part_is_in_memory_and_none_further_down():
    streamed, seen, brought = load("phantom", memory="100kB"), [], []
    assert streamed.weights is not None
    laid = cases(streamed, [prepare(streamed, s, s.answer) for s in SAMPLES])

    class Look(Keep):
        def visit(self, block, *_):
            seen.append((block, {n for n, p in streamed.module.named_parameters() if not p.is_meta}))

    room, bring = Room(kept_from=5), streamed.weights.bring
    list(steps(streamed, laid, [], lambda: None, room))
    streamed.weights.bring = lambda names: brought.append(got := bring(names)) or got
    for _ in steps_back(streamed, laid, [some_targets(laid[0], 0)], [Look()], lambda: None, room):
        assert all(p.is_meta for p in streamed.module.parameters())
    parts = [{*streamed.names_of["norm"], *streamed.names_of["head"]}, *(set(streamed.names_of[b]) for b in (7, 6, 5))]
    assert [set(names) for names in brought] == parts
    assert all(here == set(streamed.names_of[block]) for block, here in seen)
    assert [block for block, _ in seen] == [b for b in (7, 6, 5) for _ in range(3)]


# ---- nothing is left behind


def traces(model):
    """All that could be: hooks (transformers has some of its own), wishes for gradients, gradients, the attention."""
    modules = list(model.module.modules())
    return (
        sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules),
        [p.requires_grad for p in model.module.parameters()],
        [p.grad for p in model.module.parameters()],
        model.text_config._attn_implementation,
        model.module.training,
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )


class Breaks(Keep):
    def __init__(self, where):
        super().__init__("attention")
        self.where = where

    def begin(self, *args):
        super().begin(*args)
        if self.where == "begin":
            raise KeyError("broken instrument")

    def inside(self, block, module):
        if self.where == "inside":
            raise KeyError("broken instrument")
        return super().inside(block, module)

    def visit(self, *args):
        super().visit(*args)
        if self.where == "visit":
            raise KeyError("broken instrument")


@pytest.mark.parametrize("memory", [None, "100kB"])
@pytest.mark.parametrize("where", ["begin", "inside", "visit", "nowhere"])
def test_nothing_is_left_behind(where, memory):
    model = load("phantom", memory=memory)
    list(model.module.parameters())[-1].requires_grad_(False)  # what was so stays so
    laid = cases(model, [prepare(model, SAMPLES[0], SAMPLES[0].answer)])
    before = traces(model)
    with pytest.raises(KeyError, match="broken") if where != "nowhere" else nullcontext(), hooks.attention(model.module, "eager"):
        reverse(model, laid, [some_targets(laid[0], 0)], [Breaks(where)], Room(kept_from=6))
    assert traces(model) == before
    if memory:
        assert all(p.is_meta for p in model.module.parameters())
    elif where == "nowhere":
        assert True in before[1]  # the comparison does see them
    with hooks.frozen(model.blocks[0]), hooks.inputs_of(model.norm), hooks.attention(model.module, "eager"):
        assert traces(model) != before


# ---- what goes wrong


def test_a_gradient_that_is_not_finite_is_named():
    """A weight's gradient overflows where no state does."""
    model = load("phantom")
    laid = cases(model, [prepare(model, s, s.answer) for s in SAMPLES[:2]])

    def spoil(_module, _inputs, out):
        if out.requires_grad:
            out.register_hook(lambda gradient: gradient * 1e38 * 1e38)

    model.blocks[5].mlp.register_forward_hook(spoil)
    targets = [[next_word(laid[0], 7, branch=1)]]
    with pytest.raises(NotFinite, match=rf"in the gradient at hidden state 5, sample {SAMPLES[1].id}; try"):
        reverse(model, laid, targets, [], Room(kept_from=3))
    reverse(model, laid, targets, [], Room(kept_from=6))


def test_attention_weights_need_eager(phantom, laid):
    with pytest.raises(BadInput, match=r"traced inside block 7 .* only with eager"):
        reverse(phantom, laid, [[next_word(laid[0], 7)]], [Keep("attention")], Room(kept_from=6))


@pytest.mark.parametrize("entered", ["eager", "sdpa"])
def test_masks_that_serve_another_attention(phantom, entered):
    """Those of eager serve sdpa. Under sdpa there may be no mask at all, and eager would look ahead: refused."""
    (case,) = cases(phantom, [prepare(phantom, SAMPLES[0])])
    other, room = {"eager": "sdpa", "sdpa": "eager"}[entered], Room()
    with hooks.evaluation(phantom.module), hooks.attention(phantom.module, entered):
        enter(phantom, case, 0, room)
        before = through(phantom, 0, room.fetch(("way", 0)), room.get(0, 0))
    with hooks.evaluation(phantom.module), hooks.attention(phantom.module, other):
        if entered == "eager":
            assert close(through(phantom, 0, room.fetch(("way", 0)), room.get(0, 0)), before)
        else:
            with pytest.raises(BadInput, match="entered with sdpa attention, block 0 is called with eager"):
                through(phantom, 0, room.fetch(("way", 0)), room.get(0, 0))


@pytest.mark.parametrize("kept_from", [None, -1, 9])
def test_a_room_without_states_for_the_way_back(phantom, laid, kept_from):
    with pytest.raises(BadInput, match="kept_from=0 to 8"):
        reverse(phantom, laid, [[next_word(laid[0], 7)]], [], Room(kept_from=kept_from))


def test_down_to_the_last_state_alone(phantom, laid):
    keep = Keep()
    reverse(phantom, laid, [[next_word(laid[0], 7)]], [keep], Room(kept_from=8))
    assert [key[4] for key in keep.gradients] == ["last"]
