"""Random models of the classes that judge, each a folder as the hub has it; tiny if no sizes are given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tiny_models import build_tokenizer

Sizes = dict[str, int]

NORMALISED = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "rescale_factor": 1 / 255,
}


def dinov2(folder: Path, side: int = 28, **sizes: int) -> Path:
    """DINOv2 with patches of 14 pixels; ``side`` of the picture that it sees."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(patch_size=14, image_size=side, **{**tiny, **sizes})).save_pretrained(folder)
    _preprocessor(
        folder,
        image_processor_type="BitImageProcessor",
        size={"shortest_edge": side + 4},
        do_center_crop=True,
        crop_size={"height": side, "width": side},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return folder


def siglip(folder: Path, side: int = 32, words: int = 0, length: int = 16, **sizes: int) -> Path:
    """SigLIP, the class of SigLIP 2 at fixed resolutions, with a tokenizer; embeds at least ``words`` words."""
    import torch
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(2)
    tokenizer = build_tokenizer()
    layers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, **sizes}
    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": length}
    text = {**layers, **special, "vocab_size": max(words, len(tokenizer)), "projection_size": layers["hidden_size"]}
    config = SiglipConfig(text_config=text, vision_config={**layers, "image_size": side, "patch_size": 16})
    SiglipModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    size = {"height": side, "width": side}
    _preprocessor(folder, image_processor_type="SiglipImageProcessor", size=size, resample=2, **half)
    return folder


def siglip2(folder: Path) -> Path:
    """SigLIP 2 of native resolution, with the class of tokenizer that all of SigLIP 2 has."""
    import torch
    from transformers import GemmaTokenizer, Siglip2Config, Siglip2Model

    torch.manual_seed(2)
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = GemmaTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    layers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    text = {**layers, **special, "vocab_size": len(words), "max_position_embeddings": 16, "projection_size": 32}
    vision = {**layers, "num_patches": 16, "patch_size": 16}
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16, "max_num_patches": 16}
    _preprocessor(folder, image_processor_type="Siglip2ImageProcessor", resample=2, **half)
    return folder


def vision_language(
    folder: Path, words: bool = True, side: int = 28, tower: Sizes | None = None, language: Sizes | None = None
) -> Path:
    """LLaVA: a CLIP tower and a Llama, with a chat template; without ``words`` it cannot say yes."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(3)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<image>", *(["yes", "no"] if words else [])])
    layers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen = CLIPVisionConfig(**{**layers, **(tower or {})}, image_size=side, patch_size=14)
    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    tiny = {**layers, **special, "vocab_size": len(tokenizer), "num_key_value_heads": 2}
    said = LlamaConfig(**{**tiny, **(language or {})})
    image = tokenizer.convert_tokens_to_ids("<image>")
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=seen, text_config=said, image_token_index=image, image_token_id=image)
    ).save_pretrained(folder)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %} assistant "
    )
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
        image_token="<image>",
    ).save_pretrained(folder)
    return folder


def ccip(folder: Path) -> Path:
    """An ONNX graph with the input and output of CCIP's feature network: the mean of each channel, and a constant."""
    from onnx import TensorProto, helper, numpy_helper, save

    path = folder / "ccip-caformer-24-randaug-pruned" / "model_feat.onnx"
    path.parent.mkdir(parents=True)
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, 768)).astype(np.float32), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["output"]),
    ]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 384, 384])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 768])
    graph = helper.make_graph(nodes, "ccip", [given], [made], [weights])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return folder


def _preprocessor(folder: Path, **more: object) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({**NORMALISED, **more}))
