"""Keys of an ai-toolkit job that set no knob, and why.

``NEVER``: not imported. ``WHATEVER``: no effect, whatever the value. ``ALREADY``: fine if the value is what charloom
does anyway. ``OFF``: fine unless switched on. A key below a listed one (``logging.use_wandb``) is treated like it.
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
    "save.save_format": "files are always safetensors, in the layout that loads everywhere",
    "meta": "does not affect training",
}

WHATEVER: dict[str, str] = {
    "network.conv": "the model has no convolutions",
    "network.conv_alpha": "the model has no convolutions",
    "network.split_multistage_loras": "the model has one stage",
    "network.lorm": "for type lorm only",
    "save.hf_repo_id": "nothing is ever uploaded",
    "save.hf_private": "nothing is ever uploaded",
    "datasets.cache_latents_to_disk": "latents are always cached",
    "datasets.cache_latents": "latents are always cached",
    "datasets.cache_latents_num_workers": "affects speed only",
    "datasets.cache_tensors_to_disk": "images only, no video or audio",
    "datasets.cache_clip_vision_to_disk": "the model takes no control images",
    "datasets.cache_text_embeddings": "embeddings are always cached",
    "datasets.load_image_when_caching_latents": "affects speed only",
    "datasets.fast_image_size": "affects speed only",
    "datasets.num_workers": "affects speed only",
    "datasets.prefetch_factor": "affects speed only",
    "datasets.bucket_tolerance": "ai-toolkit uses the model's own",
    "datasets.shrink_video_to_frames": "images only, no video or audio",
    "datasets.fps": "images only, no video or audio",
    "datasets.trim_auto_frame_count_tail": "images only, no video or audio",
    "datasets.mask_min_value": "for masks only",
    "datasets.keep_tokens": "for shuffle_tokens only",
    "datasets.random_triggers_max": "for random_triggers only",
    "datasets.control_transparent_color": "the model takes no control images",
    "datasets.full_size_control_images": "the model takes no control images",
    "datasets.num_controls_from_same_folder": "the model takes no control images",
    "datasets.replay_transforms": "the model takes no control images",
    "datasets.guidance_type": "the model is not trained with guidance",
    "datasets.debug": "does not affect training",
    "train.gradient_checkpointing": "decided by the available memory",
    "train.unload_text_encoder": "training never loads it",
    "train.cache_text_embeddings": "embeddings are always cached",
    "train.switch_boundary_every": "the model has one stage",
    "train.bypass_guidance_embedding": "the model has no guidance embedding",
    "train.xformers": "affects speed only",
    "train.sdp": "affects speed only",
    "train.attention_backend": "affects speed only",
    "train.text_encoder_lr": "the text encoder is never trained",
    "train.train_refiner": "the model has no second network",
    "train.refiner_lr": "the model has no second network",
    "train.embedding_lr": "for trained embeddings only",
    "train.adapter_lr": "for control adapters only",
    "train.audio_loss_multiplier": "images only, no video or audio",
    "train.next_sample_timesteps": "for timestep_type next_sample only",
    "model.compile": "set recipe.engine.compile, which is on already",
    "model.block_compile": "set recipe.engine.compile, which is on already",
    "model.compile_mode": "affects speed only",
    "model.compile_fullgraph": "affects speed only",
    "model.compile_dynamic": "affects speed only",
    "model.cache_size_limit": "affects speed only",
    "model.layer_offloading_transformer_percent": "the available memory decides how much is offloaded",
    "model.layer_offloading_text_encoder_percent": "the available memory decides how much is offloaded",
    "model.extras_name_or_path": "the base file names the whole model",
    "model.is_flux": "model.arch decides",
    "sample.sampler": "flow-match Euler is the only sampler of the model",
    "sample.num_frames": "images only, no video or audio",
    "sample.fps": "images only, no video or audio",
    "sample.ext": "samples are PNG",
    "sample.format": "samples are PNG",
}

ALREADY: dict[str, tuple[str, tuple[Any, ...]]] = {
    "type": ("training of a LoRA is what charloom does", ("sd_trainer", "ui_trainer", "diffusion_trainer")),
    "network.transformer_only": ("only the blocks of the transformer get an adapter", (True,)),
    "datasets.type": ("images only, no video or audio", ("image",)),
    "datasets.is_reg": ("one data set must show the character", (False,)),
    "datasets.buckets": ("images keep their aspect ratio", (True,)),
    "datasets.scale": ("images are only scaled down, to the resolution", (1,)),
    "datasets.network_weight": (
        "the strength of the LoRA in training is always 1; loss_multiplier is data.weight",
        (1,),
    ),
    "datasets.num_frames": ("images only, no video or audio", (0, 1)),
    "train.train_unet": ("the transformer is always trained", (True,)),
    "train.train_text_encoder": ("the text encoder is never trained", (False,)),
    "train.noise_scheduler": ("flow matching is the only method", ("flowmatch",)),
    "train.min_denoising_steps": ("all noise levels are trained", (0,)),
    "train.max_denoising_steps": ("all noise levels are trained", (999, 1000)),
    "train.num_train_timesteps": ("noise levels are continuous", (1000,)),
    "train.loss_target": ("the velocity is the only target", ("noise",)),
    "train.noise_multiplier": ("noise and latents are not scaled", (1,)),
    "train.target_noise_multiplier": ("noise and latents are not scaled", (1,)),
    "train.img_multiplier": ("noise and latents are not scaled", (1,)),
    "train.latent_multiplier": ("noise and latents are not scaled", (1,)),
    "train.noisy_latent_multiplier": ("noise and latents are not scaled", (1,)),
    "train.pred_scaler": ("the prediction is not scaled", (1,)),
    "train.cfg_scale": ("training uses no guidance", (1,)),
    "train.max_cfg_scale": ("training uses no guidance", (1,)),
    "train.optimal_noise_pairing_samples": ("noise is drawn at random", (0, 1)),
    "sample.do_cfg_norm": ("not supported", (False,)),
}
"""Why, and the values that charloom matches anyway; any other value is reported."""

OFF: dict[str, str] = {
    "network.network_kwargs": "use recipe.network.modules with regular expressions",
    "network.all_layers": "only linear layers get an adapter",
    "network.layer_offloading": "not supported",
    "network.old_lokr_format": "files always have the layout that loads everywhere",
    "save.push_to_hub": "nothing is ever uploaded",
    "datasets.mask_path": "set images.masks, or masks of the extra set, to that folder",
    "datasets.invert_mask": "invert the files; masks are white on the person",
    "datasets.alpha_mask": "set images.masks, or masks of the extra set, to auto",
    "datasets.inpaint_path": "the model does not inpaint",
    "datasets.controls": "the model takes no control images",
    "datasets.control_path": "the model takes no control images",
    "datasets.control_path_1": "the model takes no control images",
    "datasets.control_path_2": "the model takes no control images",
    "datasets.control_path_3": "the model takes no control images",
    "datasets.control_from_same_folder": "the model takes no control images",
    "datasets.clip_image_path": "the model takes no control images",
    "datasets.clip_image_from_same_folder": "the model takes no control images",
    "datasets.unconditional_path": "not supported",
    "datasets.shuffle_tokens": "the text encoder reads sentences, whose order matters",
    "datasets.token_dropout_rate": "the text encoder reads whole sentences",
    "datasets.random_triggers": "a character has one trigger",
    "datasets.replacements": "not supported",
    "datasets.use_short_captions": "an image has one caption",
    "datasets.random_scale": "images are only scaled down, to the resolution",
    "datasets.random_crop": "crops are always centred",
    "datasets.square_crop": "images keep their aspect ratio",
    "datasets.augments": "flips are the only augmentation",
    "datasets.augmentations": "flips are the only augmentation",
    "datasets.shuffle_augmentations": "flips are the only augmentation",
    "datasets.standardize_images": "not supported",
    "datasets.prior_reg": "use recipe.train.preservation",
    "datasets.extra_values": "not supported",
    "datasets.batch_size": "all data sets share train.batch_size",
    "datasets.do_i2v": "images only, no video or audio",
    "datasets.do_audio": "images only, no video or audio",
    "datasets.audio_normalize": "images only, no video or audio",
    "datasets.audio_preserve_pitch": "images only, no video or audio",
    "datasets.auto_frame_count": "images only, no video or audio",
    "train.start_step": "training always starts from the base",
    "train.free_u": "not supported",
    "train.min_snr_gamma": "the loss is not weighted by noise level; see recipe.train.timestep_type",
    "train.snr_gamma": "the loss is not weighted by noise level; see recipe.train.timestep_type",
    "train.learnable_snr_gos": "the loss is not weighted by noise level; see recipe.train.timestep_type",
    "train.linear_timesteps": "the loss is not weighted by noise level; see recipe.train.timestep_type",
    "train.linear_timesteps2": "the loss is not weighted by noise level; see recipe.train.timestep_type",
    "train.noise_offset": "noise is always plain Gaussian",
    "train.dynamic_noise_offset": "noise is always plain Gaussian",
    "train.random_noise_shift": "noise is always plain Gaussian",
    "train.random_noise_multiplier": "noise is always plain Gaussian",
    "train.force_consistent_noise": "noise is drawn anew each time",
    "train.blended_blur_noise": "noise is always plain Gaussian",
    "train.weight_jitter": "not supported",
    "train.do_differential_guidance": "not supported",
    "train.do_guidance_loss": "not supported",
    "train.do_prior_divergence": "not supported",
    "train.do_fft_loss": "not supported",
    "train.t0_loss_target": "the velocity is the only target",
    "train.do_blank_stabilization": "use recipe.train.preservation.blank",
    "train.do_cfg": "training uses no guidance",
    "train.do_random_cfg": "training uses no guidance",
    "train.do_paramiter_swapping": "all parameters are trained at each step",
    "train.prompt_saturation_chance": "captions are used unchanged",
    "train.prompt_dropout_prob": "use recipe.data.caption_dropout",
    "train.short_and_long_captions": "an image has one caption",
    "train.negative_prompt": "not supported",
    "train.inverted_mask_prior": "not supported",
    "train.single_item_batching": "use recipe.train.gradient_accumulation",
    "train.diffusion_feature_extractor_path": "not supported",
    "train.latent_feature_extractor_path": "not supported",
    "train.merge_network_on_save": "files hold only the adapter",
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
    "train.unet_lr": "ai-toolkit trains a LoRA at train.lr instead",
    "model.dtype": "ai-toolkit uses train.dtype instead",
    "model.model_kwargs": "the base file describes the model",
    "model.model_paths": "the base file describes the model",
    "model.quantize_kwargs": "all Linears of the blocks are quantised",
    "model.accuracy_recovery_adapter": "not supported",
    "model.inference_lora_path": "previews are drawn by the base without its training adapter",
    "model.unconditional_lora_path": "previews are drawn by the base without its training adapter",
    "model.lora_path": "merge it yourself and name the merged model in a base file",
    "model.vae_path": "name it in the base file",
    "model.te_name_or_path": "name it in the base file",
    "model.unet_path": "name it in the base file, as transformer_file",
    "model.vae_device": "decided by the available memory",
    "model.te_device": "decided by the available memory",
    "model.split_model_over_gpus": "a character is trained on one GPU",
    "model.ignore_if_contains": "use recipe.network.modules with regular expressions",
    "model.only_if_contains": "use recipe.network.modules with regular expressions",
    "sample.sample_start_step": "every saved step is sampled",
    "sample.guidance_rescale": "not supported",
    "sample.extra_values": "not supported",
    "first_sample": "all previews share their settings; see recipe.sample.skip_first",
    "guidance": "not supported",
    "slider": "no sliders are trained",
    "embedding": "no embeddings are trained",
    "decorator": "no embeddings are trained",
    "adapter": "no control adapters are trained",
}
"""Reported unless they are switched off: empty, zero or false."""


GROUPS = ("network", "save", "train", "model", "sample", "datasets", "train.ema_config", "train.optimizer_params",
          "train.lr_scheduler_params")  # fmt: skip
"""Groups of keys that mean nothing when empty."""


def _above(key: str, table: dict[str, Any]) -> str | None:
    """The entry of a table for a key: the key itself or a group that contains it."""
    return next((known for known in table if key == known or key.startswith(f"{known}.")), None)


def listed(key: str) -> bool:
    """Whether a table lists exactly this key, so that its children need no entries."""
    return any(key in table for table in (NEVER, WHATEVER, ALREADY, OFF))


def why_not(key: str, value: Any) -> str | None:
    """Why a key is not imported; None if charloom does what it asks for anyway."""
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
