"""The tokenizer of the embedded model: a byte-level BPE over the toy world with a ChatML template."""

from __future__ import annotations

import random
from typing import Any

from cai.embedded.corpus import Sample, stream

VOCABULARY = 3584
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chat_text(sample: Sample) -> tuple[str, str]:
    """Prompt and answer of a sample, exactly as the chat template writes them."""
    turns = "".join(f"{START}{m.role}\n{m.content}{END}\n" for m in sample.messages)
    return f"{turns}{START}assistant\n", f"{sample.answer}{END}"


def train_tokenizer(seed: int, samples: int = 30_000) -> Any:
    """A `PreTrainedTokenizerFast` trained on a seeded stream; the letters A and B stay single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (
        text
        for sample in stream(random.Random(f"{seed}/tokenizer"), samples)
        for text in (*(m.content for m in sample.messages), sample.answer, "user", "assistant", "system")
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
