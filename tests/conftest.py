"""What all tests share: one thread, for tiny models lose time to more, and the same random numbers every time."""

import os

import pytest
import torch
from tiny import tiny
from words import QUESTIONS, SPECIAL, STORY, tokenizer

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of fresh processes as well: with more, sums are taken in another order


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
    """A test is `fast` unless it says otherwise; those that need CUDA are skipped without it."""
    without = pytest.mark.skip(reason="needs CUDA")
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("slow", "real", "gpu")):
            item.add_marker(pytest.mark.fast)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(without)


@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny base on disk, with its tokenizer."""
    directory = tmp_path_factory.mktemp("models") / "base"
    made = tiny("llama", max_position_embeddings=4096)
    made.generation_config.suppress_tokens = list(range(len(SPECIAL)))  # it always says words, never nothing
    made.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def story(tmp_path_factory):
    """A text on disk."""
    path = tmp_path_factory.mktemp("texts") / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    """Questions on disk, a line each."""
    path = tmp_path_factory.mktemp("texts") / "questions"
    path.write_text("\n".join(QUESTIONS), encoding="utf-8")
    return str(path)
