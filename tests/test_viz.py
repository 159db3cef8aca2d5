"""Pictures: what they are drawn of is right, drawing changes nothing elsewhere, and pages stand alone."""

import re
from html.parser import HTMLParser

import matplotlib
import pytest
import torch
from commands import SMALL, document, fails, run
from converted import converted
from remembered import memory
from rich.console import Console
from tiny import tiny, tokens
from words import STORY, tokenizer

from ttt_retrofit import InputError, UnsupportedModelError
from ttt_retrofit.evaluation import FULL, SINKS, TTT, full_attention
from ttt_retrofit.inner.learning import displacements
from ttt_retrofit.viz import collect, figures, pages, text
from ttt_retrofit.viz.data import HOW_TO_READ, TextRead, running_mean

SAID = [{"role": "user", "content": "Marek lives in Antwerp ."}, {"role": "assistant", "content": "old key"}]
ASKED = ["where is Marek ?", "who plays cello ?"]


@pytest.fixture
def read():
    return collect.text_read(converted(), tokenizer(), tokens(1, 53))


@pytest.fixture(scope="module")
def effect():
    model = converted()
    return collect.memory_effect(model, tokenizer(), memory(model, 1, gated=False), SAID, ASKED)


def test_a_text_is_read_without_updates_and_with(read):
    assert len(read.tokens) == 53 and read.without.shape == read.updated.shape == (52,)
    torch.testing.assert_close(read.without[:7], read.updated[:7])  # nothing is learned before the first chunk
    assert not torch.allclose(read.without[8:], read.updated[8:])
    assert read.moved.shape == (len(read.sites), 6) and bool((read.moved > 0).all())
    assert [seen for seen, _ in read.state[TTT]] == [8, 16, 24, 32, 40, 48, 53]


def test_displacement_is_the_norm_of_the_change_over_that_of_the_matrix():
    model = converted(layers=(1,))
    cache = model.read(tokens(1, 16))
    ((name, state),) = cache.fast.sites.items()
    projection = model.get_submodule(next(iter(model.sites)).site.path)
    exact = torch.linalg.matrix_norm(state.weights["delta"][0]) / torch.linalg.matrix_norm(projection.weight)
    assert name and displacements(model, cache.fast).item() == pytest.approx(exact.item(), rel=0.1)  # ‖W‖ is probed
    assert displacements(model, model.new_cache().fast).tolist() == [0.0]


def test_reading_leaves_the_model_as_it_was_configured():
    model = converted()
    before = model.ttt
    collect.text_read(model, tokenizer(), tokens(1, 20))
    assert model.ttt == before


def test_the_lens_on_the_last_layer_is_what_the_model_says(effect):
    model = converted()
    prompt = torch.tensor([tokenizer()(_template(ASKED[0]), add_special_tokens=False).input_ids])
    with torch.no_grad():
        said = model(prompt, learn_from="none").logits[0, -1].log_softmax(-1)
    answer = tokenizer().convert_tokens_to_ids(effect.answers[0])
    assert effect.lens[1, 0, -1].item() == pytest.approx(said[answer].item(), abs=1e-4)


def _template(question):
    return tokenizer().apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )


def test_a_memory_changes_states_from_its_lowest_layer_up(effect):
    without, remembered = effect.states[1], effect.states[2]
    torch.testing.assert_close(without[:, :2], remembered[:, :2])  # the embedding and layer 0, below the memory
    assert not torch.allclose(without[:, 2:], remembered[:, 2:])
    assert effect.closeness.shape == (2, 2, 5)


def test_the_title_of_a_memory_says_how_likely_the_answers_are_in_each_condition(effect):
    figure = figures.memory_effect(effect)
    means = [f"{mean:.2f}" for mean in effect.lens[:, :, -1].exp().mean(1).tolist()]
    title = figure._suptitle.get_text()
    assert (
        title
        == f"How likely the answer to 2 questions begins: {means[0]} with the context, {means[1]} without, "
        + (f"{means[2]} with the memory")
    )
    marks = [points.get_offsets()[:, 0].tolist() for points in figure.axes[0].collections]
    assert marks == [pytest.approx(row) for row in effect.likely.tolist()]


def test_the_picture_of_weights_has_a_line_for_each_site_from_its_start(read):
    lines = figures.weight_changes(read).axes[0].lines
    assert [line.get_ydata()[-1] for line in lines] == pytest.approx(read.moved[:, -1].tolist())
    assert all(line.get_xydata()[0].tolist() == [0, 0] for line in lines)


def test_asking_nothing_is_refused():
    model = converted()
    with pytest.raises(InputError, match="no question"):
        collect.memory_effect(model, tokenizer(), memory(model, 1), "a text", [])


def test_models_with_several_states_for_a_token_are_refused():
    model = converted("gemma3n_text")
    with pytest.raises(UnsupportedModelError, match="state for each token"):
        collect.memory_effect(model, tokenizer(), memory(model, 1), "a text", ASKED)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama4_text", "gemma2", "deepseek_v3"])
def test_the_last_norm_of_any_decoder_is_found(family):
    model = tiny(family)
    with torch.no_grad():
        states = model(tokens(1, 5), output_hidden_states=True, return_dict=True)
    heard = []
    collect.final_norm(model).register_forward_hook(lambda module, args, output: heard.append(output))
    with torch.no_grad():
        model(tokens(1, 5))
    torch.testing.assert_close(heard[-1], states.hidden_states[-1])


def test_a_running_mean_never_looks_ahead():
    positions, means = running_mean(torch.arange(6.0), 3)
    assert positions == [3, 4, 5, 6] and means == [1.0, 2.0, 3.0, 4.0]


def test_figures_have_units_and_leave_matplotlib_alone(read, effect):
    settings, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    model = converted()
    read = collect.with_full_attention(read, full_attention(model.unwrap(), tokens(1, 53)))
    drawn = [figures.loss_by_position(read), figures.weight_changes(read), figures.state_bytes(read)]
    labels = [axes.get_ylabel() for figure in drawn for axes in figure.axes]
    assert (
        labels[:2] == ["loss, nats/token", "nats/token"] and "‖ΔW‖ / ‖W‖" in labels and "state of a row, MB" in labels
    )
    assert {axes.get_xlabel() for axes in figures.memory_effect(effect).axes} == {
        "after layer", "probability of the answer's first token",
    }  # fmt: skip
    assert dict(matplotlib.rcParams) == settings and matplotlib.get_backend() == backend


def test_the_state_of_a_text_read_in_one_call_is_a_line(read):
    once = TextRead(**{**vars(read), "state": {FULL: [(53, 1_000_000)], TTT: read.state[TTT]}})
    (axes,) = figures.state_bytes(once).axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 0], [53, 1]]


def test_pages_stand_alone_and_escape_what_was_read(read, tmp_path):
    nasty = TextRead(**{**vars(read), "tokens": ["<script>alert('x')</script>", "&", *read.tokens[2:]]})
    page = pages.surprise(nasty, "<b>title</b>", HOW_TO_READ["surprise"])
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>" not in page
    for path in pages.save(figures.surprise(nasty, 0, 30), HOW_TO_READ["surprise"], "a title", tmp_path / "surprise"):
        assert path.stat().st_size > 1000
    for html in (page, (tmp_path / "surprise.html").read_text()):
        assert_stands_alone(html)


def assert_stands_alone(html):
    found = Tags()
    found.feed(html)
    assert found.open == [] and found.fetched == []
    addresses = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of what SVG is, never fetched
    assert set(re.findall(r"\w+://[^\s\"'<]+", html)) <= addresses and "url(http" not in html


class Tags(HTMLParser):
    """Tags left open, and addresses a browser would fetch."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attributes):
        self.open += [] if tag in self.VOID else [tag]
        named = [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.fetched += [value for value in named if value and not value.startswith(("#", "data:"))]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_picture_has_a_form_for_terminals(read, effect):
    console = Console(width=80, record=True)
    for picture in (text.loss_by_position(read), text.weight_changes(read), text.surprise(read, 0),
                    text.state_bytes(read), text.memory_effect(effect)):  # fmt: skip
        console.print(picture)
    shown = console.export_text()
    assert "▁" in shown and "█" in shown and SINKS in shown and "log-probability" in shown
    assert text.binned([]) == []  # of a text shorter than a chunk, after which no weight has moved
    assert text.sparkline([0.0, 0.5, 1.0], 0.0, 1.0) == "▁▅█"


@pytest.mark.slow
def test_plot_draws_everything_that_reading_shows(base, story, tmp_path):
    said = document("plot", "reading", base, story, "--out", tmp_path / "pictures", *SMALL)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(
        f"{kind}.{form}" for kind in ("loss", "state", "surprise", "weights") for form in ("html", "png")
    )
    assert set(said["state_bytes"]) == {FULL, SINKS, TTT}
    shown = run("plot", "reading", base, story, *SMALL).stdout
    assert all(sentence[:40] in shown for kind, sentence in HOW_TO_READ.items() if kind != "memory")


@pytest.mark.slow
def test_plot_shows_what_a_memory_changed(base, story, tmp_path):
    from ttt_retrofit import AutoModelForCausalLM

    memory(AutoModelForCausalLM.from_pretrained(base), 1, gated=False).save(tmp_path / "memory")
    arguments = ["plot", "memory", base, tmp_path / "memory", story, "--question", ASKED[0], "--question", ASKED[1]]
    said = document(*arguments, "--out", tmp_path / "pictures")
    assert said["questions"] == ASKED and len(said["cosine_by_layer"]["with"]) == 5
    assert (tmp_path / "pictures" / "memory.png").exists() and STORY[:20] not in str(said)
    assert_stands_alone((tmp_path / "pictures" / "memory.html").read_text())


def test_plot_names_the_extra_when_matplotlib_is_missing(base, story, tmp_path, monkeypatch):
    from ttt_retrofit_cli import plot

    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    assert "ttt-retrofit[viz]" in fails("plot", "reading", base, story, "--out", tmp_path / "x")
