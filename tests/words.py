"""A tokenizer of whole words for tiny models, with and without a chat template."""

from __future__ import annotations

from tiny import VOCABULARY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "user", "assistant"]
TEXT = """
Marek Antwerp Solveig trumpet hazelnuts Lucien chess Thursday code 7719 flowerpot greyhound Bolt vet
Otto nine Runa four museum harbour window lantern copper violet seven eleven Braga Leeds welder
notary baker oboe cello what where who is my the a in of and plays lives has called old key under
blue yellow Panda boss Fernanda report November 23 wife dog daughter son name How When Question
Answer : . ? , ____ Sentence Hidden
"""
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    names = [*SPECIAL, *dict.fromkeys(TEXT.split())]
    names += [f"word{number}" for number in range(VOCABULARY - len(names))]
    assert len(names) == VOCABULARY
    model = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<pad>"))
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(pattern=r"[.?,:]", behavior="isolated")]
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    if chat:
        wrapped.chat_template = TEMPLATE
    return wrapped


SENTENCES = (
    "Marek has Antwerp Solveig trumpet hazelnuts Lucien chess Thursday code 7719 flowerpot greyhound. Otto called nine "
    "Runa four museum harbour window lantern copper violet seven eleven Braga Leeds welder. Bolt vet notary baker oboe "
    "cello has old key under blue yellow Panda boss Fernanda. my report plays November 23 wife dog daughter son "
    "How When Question Answer Sentence Hidden. " + " ".join(f"word{number}" for number in range(VOCABULARY)) + "."
)
# One sentence of nearly every word there is, so that whatever a random teacher answers comes from it.
STORY = SENTENCES.replace(". ", " and ")
OTHER_STORY = " ".join(reversed(STORY.split()))
QUESTIONS = [
    "where is Marek ?", "what plays Otto ?", "who has the key ?", "what is blue ?", "where is my wife ?",
    "who is old ?", "what is the code ?", "where lives Lucien ?",
]  # fmt: skip
