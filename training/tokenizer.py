"""A tokenizer of the words of some prompts, with PaliGemma's special tokens and its newline."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from lerobot_pi0_ttnn.demo.tokenizer import BOS, EOS, NEWLINE, PAD, UNK

WORD = r"\n|[a-z0-9]+|[^\sa-z0-9]"
"""A newline, a word, or a sign, of text in lower case."""

STATE_PROMPTS = ("Task: , State: ;\nAction: -", *map(str, range(256)))
"""What pi0.5's prompts have besides the task: each of the 256 bins of a state is a word."""


def make_word_tokenizer(prompts: Iterable[str], folder: Path) -> None:
    """Saves a tokenizer to a folder: `<bos>`, then a token for each word; a word of no prompt is `<unk>`.

    Args:
        prompts: up to about 400 different words.
        folder: where to.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for prompt in prompts for word in re.findall(WORD, prompt.lower())} - {"\n"})
    special = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS, "<unk>": UNK, "\n": NEWLINE}
    words += [f"<unused{number}>" for number in range(NEWLINE - UNK - 1 - len(words))]  # ids without a gap
    free = (number for number in itertools.count() if number not in special.values())
    vocabulary = special | dict(zip(words, free, strict=False))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex(WORD), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder)
