"""Parts of a base that is so small that tests can build it. Plain functions; fixtures are in conftest.py."""

from __future__ import annotations

from pathlib import Path

CAPTION_WIDTH = 32
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def build_tokenizer():
    """A byte-level BPE of a few hundred tokens with Qwen's chat markers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a medium shot photo of l3yla, a plain wall, user assistant"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        padding_side="right",
        model_max_length=1024,
    )


def build_transformer(seed: int = 0):
    """A random ``ZImageTransformer2DModel``: dim 64, two layers, one refiner block of each kind, two heads."""
    import torch
    from diffusers import ZImageTransformer2DModel

    torch.manual_seed(seed)
    model = ZImageTransformer2DModel(
        dim=64,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=CAPTION_WIDTH,
        axes_dims=[8, 12, 12],
        axes_lens=[1536, 64, 64],
    )
    # Zero by default, which would hide a mistake with padding.
    torch.nn.init.normal_(model.x_pad_token, std=0.5)
    torch.nn.init.normal_(model.cap_pad_token, std=0.5)
    return model


def build_base(folder: Path) -> Path:
    """Write a diffusers folder with every part of Z-Image in the stock classes, tiny and random."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(1)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    tokenizer = build_tokenizer()
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=CAPTION_WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=1024,
        )
    )
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=build_transformer(),
    )
    pipeline.save_pretrained(folder)
    return folder


def lora_of(model, seed, rank=4, dora=False, below="layers."):
    """Tensors of a LoRA on the linear layers of the main blocks, or ``below`` another part, big enough to be seen."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, linear in model.named_modules():
        if isinstance(linear, torch.nn.Linear) and name.startswith(below):
            stem = f"diffusion_model.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, linear.in_features, generator=generator) * 0.2
            tensors[f"{stem}.lora_B.weight"] = torch.randn(linear.out_features, rank, generator=generator) * 0.2
            tensors[f"{stem}.alpha"] = torch.tensor(float(rank))
            if dora:
                tensors[f"{stem}.dora_scale"] = linear.weight.norm(dim=1, keepdim=True) * 1.1
    return tensors
