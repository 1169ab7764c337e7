"""Keys of an ai-toolkit job that become no knob, and why.

Three kinds: never taken over, of no consequence whatever they say, and taken for granted as long as they say what
charloom does anyway. A key below one that is listed (``logging.use_wandb``) goes with it.
"""

from __future__ import annotations

from typing import Any

NEVER: dict[str, str] = {
    "training_folder": "results always go to results/<character>/",
    "device": "set device in config/config.yaml, for all characters",
    "sqlite_db_path": "there is no database",
    "performance_log_every": "every step is logged",
    "log_dir": "metrics.jsonl and TensorBoard are always written",
    "logging": "metrics.jsonl and TensorBoard are always written",
    "save.save_format": "files are always safetensors in the layout that loads everywhere",
    "meta": "says nothing about training",
}

WHATEVER: dict[str, str] = {
    "network.conv": "the model has no convolutions",
    "network.conv_alpha": "the model has no convolutions",
    "network.split_multistage_loras": "the model has one stage",
    "network.lorm": "for type lorm alone",
    "save.hf_repo_id": "nothing is ever uploaded",
    "save.hf_private": "nothing is ever uploaded",
    "datasets.cache_latents_to_disk": "latents are always made once and kept",
    "datasets.cache_latents": "latents are always made once and kept",
    "datasets.cache_latents_num_workers": "says how fast, not what",
    "datasets.cache_tensors_to_disk": "pictures only",
    "datasets.cache_clip_vision_to_disk": "the model takes no control pictures",
    "datasets.cache_text_embeddings": "embeddings are always made once and kept",
    "datasets.load_image_when_caching_latents": "says how fast, not what",
    "datasets.fast_image_size": "says how fast, not what",
    "datasets.num_workers": "says how fast, not what",
    "datasets.prefetch_factor": "says how fast, not what",
    "datasets.bucket_tolerance": "ai-toolkit takes the model's own",
    "datasets.shrink_video_to_frames": "pictures only",
    "datasets.fps": "pictures only",
    "datasets.trim_auto_frame_count_tail": "pictures only",
    "datasets.mask_min_value": "for masks alone",
    "datasets.keep_tokens": "for shuffle_tokens alone",
    "datasets.random_triggers_max": "for random_triggers alone",
    "datasets.control_transparent_color": "the model takes no control pictures",
    "datasets.full_size_control_images": "the model takes no control pictures",
    "datasets.num_controls_from_same_folder": "the model takes no control pictures",
    "datasets.replay_transforms": "the model takes no control pictures",
    "datasets.guidance_type": "the model is not trained with guidance",
    "datasets.debug": "says nothing about training",
    "train.gradient_checkpointing": "as the memory demands",
    "train.unload_text_encoder": "training never loads it",
    "train.cache_text_embeddings": "embeddings are always made once and kept",
    "train.switch_boundary_every": "the model has one stage",
    "train.bypass_guidance_embedding": "the model has no guidance embedding",
    "train.xformers": "says how fast, not what",
    "train.sdp": "says how fast, not what",
    "train.attention_backend": "says how fast, not what",
    "train.text_encoder_lr": "the text encoder is never trained",
    "train.train_refiner": "the model has no second network",
    "train.refiner_lr": "the model has no second network",
    "train.embedding_lr": "for trained embeddings alone",
    "train.adapter_lr": "for control adapters alone",
    "train.audio_loss_multiplier": "pictures only",
    "train.next_sample_timesteps": "for timestep_type next_sample alone",
    "model.compile": "set recipe.engine.compile, which is on already",
    "model.block_compile": "set recipe.engine.compile, which is on already",
    "model.compile_mode": "says how fast, not what",
    "model.compile_fullgraph": "says how fast, not what",
    "model.compile_dynamic": "says how fast, not what",
    "model.cache_size_limit": "says how fast, not what",
    "model.layer_offloading_transformer_percent": "the memory there is decides how much is offloaded",
    "model.layer_offloading_text_encoder_percent": "the memory there is decides how much is offloaded",
    "model.extras_name_or_path": "the base file names the whole model",
    "model.is_flux": "arch decides",
    "sample.sampler": "flow-match Euler is the only sampler of the model",
    "sample.num_frames": "pictures only",
    "sample.fps": "pictures only",
    "sample.ext": "samples are PNG",
    "sample.format": "samples are PNG",
}

ALREADY: dict[str, tuple[str, tuple[Any, ...]]] = {
    "type": ("training of a LoRA is what charloom does", ("sd_trainer", "ui_trainer", "diffusion_trainer")),
    "network.transformer_only": ("only the blocks of the transformer get an adapter", (True,)),
    "datasets.type": ("pictures only", ("image",)),
    "datasets.is_reg": ("one data set must show the character", (False,)),
    "datasets.buckets": ("pictures keep their shape", (True,)),
    "datasets.scale": ("pictures are only made smaller, to the resolution", (1,)),
    "datasets.network_weight": (
        "the strength of the LoRA in training is always 1; loss_multiplier is data.weight",
        (1,),
    ),
    "datasets.num_frames": ("pictures only", (0, 1)),
    "train.train_unet": ("the transformer is always trained", (True,)),
    "train.train_text_encoder": ("the text encoder is never trained", (False,)),
    "train.noise_scheduler": ("flow matching is the only way", ("flowmatch",)),
    "train.min_denoising_steps": ("all noise levels are trained", (0,)),
    "train.max_denoising_steps": ("all noise levels are trained", (999, 1000)),
    "train.num_train_timesteps": ("noise levels are continuous", (1000,)),
    "train.loss_target": ("the velocity is the only target", ("noise",)),
    "train.noise_multiplier": ("noise and latents are taken as they are", (1,)),
    "train.target_noise_multiplier": ("noise and latents are taken as they are", (1,)),
    "train.img_multiplier": ("noise and latents are taken as they are", (1,)),
    "train.latent_multiplier": ("noise and latents are taken as they are", (1,)),
    "train.noisy_latent_multiplier": ("noise and latents are taken as they are", (1,)),
    "train.pred_scaler": ("the prediction is taken as it is", (1,)),
    "train.cfg_scale": ("training takes no guidance", (1,)),
    "train.max_cfg_scale": ("training takes no guidance", (1,)),
    "train.optimal_noise_pairing_samples": ("noise is drawn at random", (0, 1)),
    "sample.do_cfg_norm": ("not supported", (False,)),
}
"""Why, and the values that ask for nothing else; for all others the key is reported."""

OFF: dict[str, str] = {
    "network.network_kwargs": "use recipe.network.modules with regular expressions",
    "network.pretrained_lora_path": "training always begins at the base",
    "network.all_layers": "only matrices get an adapter",
    "network.layer_offloading": "not supported",
    "network.old_lokr_format": "files have the one layout that loads everywhere",
    "save.push_to_hub": "nothing is ever uploaded",
    "datasets.mask_path": "masks are not supported",
    "datasets.invert_mask": "masks are not supported",
    "datasets.alpha_mask": "masks are not supported",
    "datasets.inpaint_path": "masks are not supported",
    "datasets.controls": "the model takes no control pictures",
    "datasets.control_path": "the model takes no control pictures",
    "datasets.control_path_1": "the model takes no control pictures",
    "datasets.control_path_2": "the model takes no control pictures",
    "datasets.control_path_3": "the model takes no control pictures",
    "datasets.control_from_same_folder": "the model takes no control pictures",
    "datasets.clip_image_path": "the model takes no control pictures",
    "datasets.clip_image_from_same_folder": "the model takes no control pictures",
    "datasets.unconditional_path": "not supported",
    "datasets.shuffle_tokens": "the text encoder reads sentences, whose order counts",
    "datasets.token_dropout_rate": "the text encoder reads sentences, which must stay whole",
    "datasets.random_triggers": "a character has one trigger",
    "datasets.replacements": "not supported",
    "datasets.use_short_captions": "an image has one caption",
    "datasets.random_scale": "pictures are only made smaller, to the resolution",
    "datasets.random_crop": "pictures are cut at the middle",
    "datasets.square_crop": "pictures keep their shape",
    "datasets.augments": "flips are the only augmentation",
    "datasets.augmentations": "flips are the only augmentation",
    "datasets.shuffle_augmentations": "flips are the only augmentation",
    "datasets.standardize_images": "not supported",
    "datasets.prior_reg": "use recipe.train.preservation",
    "datasets.extra_values": "not supported",
    "datasets.batch_size": "all data sets share train.batch_size",
    "datasets.do_i2v": "pictures only",
    "datasets.do_audio": "pictures only",
    "datasets.audio_normalize": "pictures only",
    "datasets.audio_preserve_pitch": "pictures only",
    "datasets.auto_frame_count": "pictures only",
    "train.start_step": "training always begins at the base",
    "train.free_u": "not supported",
    "train.min_snr_gamma": "the loss counts alike at all noise levels; see recipe.train.timestep_type",
    "train.snr_gamma": "the loss counts alike at all noise levels; see recipe.train.timestep_type",
    "train.learnable_snr_gos": "the loss counts alike at all noise levels; see recipe.train.timestep_type",
    "train.linear_timesteps": "the loss counts alike at all noise levels; see recipe.train.timestep_type",
    "train.linear_timesteps2": "the loss counts alike at all noise levels; see recipe.train.timestep_type",
    "train.noise_offset": "noise is plain Gaussian",
    "train.dynamic_noise_offset": "noise is plain Gaussian",
    "train.random_noise_shift": "noise is plain Gaussian",
    "train.random_noise_multiplier": "noise is plain Gaussian",
    "train.force_consistent_noise": "noise is drawn anew each time",
    "train.blended_blur_noise": "noise is plain Gaussian",
    "train.weight_jitter": "not supported",
    "train.do_differential_guidance": "not supported",
    "train.do_guidance_loss": "not supported",
    "train.do_prior_divergence": "not supported",
    "train.do_fft_loss": "not supported",
    "train.t0_loss_target": "the velocity is the only target",
    "train.do_blank_stabilization": "use recipe.train.preservation.blank",
    "train.do_cfg": "training takes no guidance",
    "train.do_random_cfg": "training takes no guidance",
    "train.do_paramiter_swapping": "all parameters are trained at each step",
    "train.prompt_saturation_chance": "captions are taken as they are",
    "train.prompt_dropout_prob": "use recipe.data.caption_dropout",
    "train.short_and_long_captions": "an image has one caption",
    "train.negative_prompt": "not supported",
    "train.inverted_mask_prior": "masks are not supported",
    "train.single_item_batching": "use recipe.train.gradient_accumulation",
    "train.diffusion_feature_extractor_path": "not supported",
    "train.latent_feature_extractor_path": "not supported",
    "train.merge_network_on_save": "files hold the adapter alone",
    "train.match_noise_norm": "not supported",
    "train.correct_pred_norm": "not supported",
    "train.standardize_images": "not supported",
    "train.standardize_latents": "not supported",
    "train.target_norm_std": "not supported",
    "train.train_turbo": "not supported",
    "train.show_turbo_outputs": "not supported",
    "train.max_loss": "the loss is not clipped; train.max_grad_norm clips gradients",
    "train.max_loss_debug": "not supported",
    "train.validation_config": "use a data set with holdout: true",
    "train.unet_lr": "ai-toolkit itself trains a LoRA at train.lr",
    "model.dtype": "ai-toolkit itself takes train.dtype",
    "model.model_kwargs": "the base file describes the model",
    "model.model_paths": "the base file describes the model",
    "model.quantize_kwargs": "all Linears of the blocks are quantised",
    "model.accuracy_recovery_adapter": "not supported",
    "model.inference_lora_path": "previews are drawn by the base without its training adapter",
    "model.unconditional_lora_path": "previews are drawn by the base without its training adapter",
    "model.lora_path": "put the merged model into a base file",
    "model.vae_path": "name it in the base file",
    "model.te_name_or_path": "name it in the base file",
    "model.unet_path": "name it in the base file, as transformer_file",
    "model.vae_device": "the memory there is decides",
    "model.te_device": "the memory there is decides",
    "model.split_model_over_gpus": "a character is trained on one GPU",
    "model.ignore_if_contains": "use recipe.network.modules with regular expressions",
    "model.only_if_contains": "use recipe.network.modules with regular expressions",
    "sample.sample_start_step": "every saved step is sampled",
    "sample.guidance_rescale": "not supported",
    "sample.extra_values": "not supported",
    "first_sample": "all previews are of one kind; see recipe.sample.skip_first",
    "guidance": "not supported",
    "slider": "no sliders are trained",
    "embedding": "no embeddings are trained",
    "decorator": "no embeddings are trained",
    "adapter": "no control adapters are trained",
}
"""Reported unless they are switched off: empty, zero or false."""


GROUPS = ("network", "save", "train", "model", "sample", "datasets", "train.ema_config", "train.optimizer_params",
          "train.lr_scheduler_params")  # fmt: skip
"""Groups of keys that ask for nothing where they are empty."""


def _above(key: str, table: dict[str, Any]) -> str | None:
    """The key itself, or the group around it, that a table lists."""
    return next((known for known in table if key == known or key.startswith(f"{known}.")), None)


def listed(key: str) -> bool:
    """Whether a key is in one of the tables by its own name, and is therefore accounted for whole."""
    return any(key in table for table in (NEVER, WHATEVER, ALREADY, OFF))


def why_not(key: str, value: Any) -> str | None:
    """Why a key is not taken over, or None if it asks for nothing that charloom does not do."""
    if known := _above(key, NEVER):
        return NEVER[known]
    if _above(key, WHATEVER):
        return None
    if known := _above(key, ALREADY):
        reason, usual = ALREADY[known]
        return None if value is None or value in usual else f"{value} is not possible: {reason}"
    if known := _above(key, OFF):
        return None if _empty(value) else OFF[known]
    return None if key in GROUPS and _empty(value) else "unknown to charloom"


def _empty(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_empty(part) for part in value.values())
    if isinstance(value, list):
        return all(_empty(part) for part in value)
    return not value
