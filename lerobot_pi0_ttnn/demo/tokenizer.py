"""A stand-in for PaliGemma's tokenizer, which is gated: its special tokens and its newline, and bytes for all the rest."""

from pathlib import Path

PAD, EOS, BOS, UNK = 0, 1, 2, 3
NEWLINE = 108


def make_tokenizer(folder: Path) -> None:
    """Saves a tokenizer of 260 tokens to a folder: `<bos>`, then a token for each byte of UTF-8."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("\n")[0][0]
    alphabet.remove(newline)
    alphabet.insert(NEWLINE - 4, newline)
    vocabulary = {"<pad>": PAD, "<eos>": EOS, "<bos>": BOS, "<unk>": UNK}
    vocabulary |= {symbol: number for number, symbol in enumerate(alphabet, start=len(vocabulary))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder)
