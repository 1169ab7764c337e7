"""The shapes of the miniature: the classes of Z-Image-Turbo at a size that trains on a laptop."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

VOCABULARY = 1024
TEXT_WIDTH = 128
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# The part of Qwen3's chat format that one user message with thinking enabled uses.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def transformer() -> ZImageTransformer2DModel:
    """8 + 1 + 1 blocks of width 192; the caption axis reaches 512 padded tokens, as in the real model."""
    return ZImageTransformer2DModel(
        dim=192,
        n_layers=8,
        n_refiner_layers=1,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[16, 16, 16],
        axes_lens=[1536, 512, 512],
    )


def autoencoder() -> AutoencoderKL:
    """Factor 8, 16 channels, without the quantisation convolutions, as the FLUX autoencoder."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32, 64, 96, 128],
        layers_per_block=1,
        norm_num_groups=16,
        latent_channels=16,
        sample_size=256,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def text_encoder() -> Qwen3Model:
    """A causal language model without its head; only the first three of its four layers are read."""
    return Qwen3Model(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=TEXT_WIDTH,
            intermediate_size=320,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, use_dynamic_shifting=False, shift=3.0)


def train_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE over ``captions``; digits stay single, so that no trigger is a word by accident."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[a-zA-Z]+(?:[-'][a-zA-Z]+)*,?|\s+|[^\sa-zA-Z\d]+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(captions + ["user\n", "assistant\n"] * 2000, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        padding_side="right",
        model_max_length=1024,
    )


def write_model_index(folder: Path) -> None:
    """The index that lets ``ZImagePipeline.from_pretrained(folder)`` find its parts."""
    index = {
        "_class_name": "ZImagePipeline",
        "_diffusers_version": "0.36.0.dev0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3Model"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
