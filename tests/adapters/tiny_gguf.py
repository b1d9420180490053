"""A real GGUF file of a few hundred kilobytes: a Llama of random weights, which answers with noise."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, KV_HEADS, INNER, CONTEXT = 64, 2, 4, 2, 128, 4096
WORDS = [f"\u2581{word}" for word in ("the", "a", "risk", "low", "high", "yes", "no", "card", "is")]
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "


def write(path: Path, seed: int = 1) -> None:
    """Write the file."""
    chance = np.random.default_rng(seed)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(WORDS)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("random weights")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)

    def tensor(name: str, *shape: int, only_from: int = 0) -> None:
        values = chance.standard_normal(shape) * (2 if only_from else 0.1)
        values[:only_from] = 0
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    tensor("token_embd", len(tokens), WIDTH)
    tensor("output", len(tokens), WIDTH, only_from=len(tokens) - len(WORDS))  # or it would often say nothing
    tensor("output_norm", WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensor(f"{block}.attn_norm", WIDTH)
        tensor(f"{block}.ffn_norm", WIDTH)
        tensor(f"{block}.attn_q", WIDTH, WIDTH)
        tensor(f"{block}.attn_k", WIDTH * KV_HEADS // HEADS, WIDTH)
        tensor(f"{block}.attn_v", WIDTH * KV_HEADS // HEADS, WIDTH)
        tensor(f"{block}.attn_output", WIDTH, WIDTH)
        tensor(f"{block}.ffn_gate", INNER, WIDTH)
        tensor(f"{block}.ffn_up", INNER, WIDTH)
        tensor(f"{block}.ffn_down", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
