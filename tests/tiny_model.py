"""A random Qwen3 of 64 hidden units with its tokenizer, and exported rows to train it on."""

from __future__ import annotations

from pathlib import Path

from cai.rows import Demonstration, Message, Pair

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["please", "tell", "me", "how", "to", "bake", "bread", "kindly", "open", "a", "door", "for", "cats"]


def sentence(number: int, length: int = 6) -> str:
    return " ".join(WORDS[(number * 7 + step * (number % 5 + 1)) % len(WORDS)] for step in range(length))


def build_model(folder: Path) -> None:
    """A random Qwen3 in bf16 with a byte-level BPE tokenizer, a ChatML template and a generation config."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator([sentence(number) for number in range(50)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, head_dim=32,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.9,
    )
    model.save_pretrained(folder)


def write_demonstrations(path: Path) -> None:
    """SFT rows as the export writes them, with all the columns that a trainer does not know."""
    rows = [
        Demonstration(
            id=f"p{n}", prompt=(Message(role="user", content=sentence(n)),), source="revision",
            completion=(Message(role="assistant", content=sentence(n + 1)),),
            tags=() if n < 8 else ("harmful",), lineage=f"p{n}",
        )
        for n in range(24)
    ]  # fmt: skip
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))


def write_pairs(path: Path) -> None:
    """DPO rows as the export writes them, with p, margin, principles and the rest beside the texts."""
    rows = [
        Pair(
            id=f"p{n}/r0~p{n}/r0/v", prompt=(Message(role="user", content=sentence(n)),),
            chosen=(Message(role="assistant", content=sentence(n + 1)),),
            rejected=(Message(role="assistant", content=sentence(n + 2, 9)),),
            p=0.9, margin=2.197, source="revision", principles=("kind",), tags=(), lineage=f"p{n}",
        )
        for n in range(24)
    ]  # fmt: skip
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
