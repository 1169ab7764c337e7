"""Our path against stock diffusers on a tiny base in fp32: forward, text, autoencoder, schedule, sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

from charloom.zimage import flow, sampler, text, vae, weights
from charloom.zimage.forward import forward, pad_captions, padded_length, patchify, unpatchify

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def stock(tiny_base):
    return ZImagePipeline.from_pretrained(tiny_base, torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def ours(tiny_base):
    return weights.load_transformer(tiny_base)


def stock_forward(model: ZImageTransformer2DModel, x, t, caps):
    with torch.no_grad():
        out = model(list(x.unsqueeze(2).unbind(0)), t, caps, return_dict=False)[0]
    return torch.stack(out).squeeze(2)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 200])
@pytest.mark.parametrize("shape", [(16, 16), (8, 20), (12, 12)])
def test_forward_equals_stock(stock, ours, length, shape):
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, 16, *shape, generator=generator)
    t = torch.tensor([0.13, 0.87])
    width = stock.transformer.config.cap_feat_dim
    caps = [torch.randn(length, width, generator=generator) for _ in range(2)]
    expected = stock_forward(stock.transformer, x, t, caps)
    with torch.no_grad():
        got = forward(ours, x, t, *pad_captions(caps))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(got, expected, **CLOSE)


def test_mixed_lengths_within_one_padded_length(stock, ours):
    width = stock.transformer.config.cap_feat_dim
    caps = [torch.randn(5, width), torch.randn(32, width), torch.randn(17, width)]
    x, t = torch.randn(3, 16, 8, 8), torch.tensor([0.0, 0.5, 1.0])
    with torch.no_grad():
        got = forward(ours, x, t, *pad_captions(caps))
    torch.testing.assert_close(got, stock_forward(stock.transformer, x, t, caps), **CLOSE)


def test_captions_of_different_padded_lengths_are_refused(ours):
    width = ours.config.cap_feat_dim
    with pytest.raises(ValueError, match="padded length"):
        pad_captions([torch.randn(5, width), torch.randn(40, width)])


def test_padding_rows_do_not_depend_on_what_they_hold(ours):
    width = ours.config.cap_feat_dim
    caps, pad = pad_captions([torch.randn(20, width)])
    x, t = torch.randn(1, 16, 8, 8), torch.tensor([0.4])
    other = caps.clone()
    other[:, 20:] = 7.0
    with torch.no_grad():
        torch.testing.assert_close(forward(ours, x, t, caps, pad), forward(ours, x, t, other, pad))


def test_patchify_round_trip():
    x = torch.randn(2, 16, 6, 10)
    assert torch.equal(unpatchify(patchify(x), 16, 6, 10), x)


def test_embeddings_equal_the_pipeline(stock, tiny_base):
    prompts = ["a close-up portrait photo of l3yla, frontal view", "", "x " * 700]
    expected, _ = stock.encode_prompt(list(prompts), do_classifier_free_guidance=False)
    got = text.encode(*weights.load_text_encoder(tiny_base), prompts)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, **CLOSE)
    assert len(got[2]) == text.MAX_TOKENS


def test_eight_sigmas():
    expected = [1.0, 0.954545, 0.9, 0.833333, 0.75, 0.642857, 0.5, 0.3, 0.0]
    assert flow.sample_sigmas(8) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 8, 30])
def test_sigmas_equal_the_scheduler(steps):
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    assert flow.sample_sigmas(steps) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)


def test_flow_conventions():
    x0, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    assert torch.equal(flow.noisy(x0, noise, torch.tensor([0.0, 0.0])), x0)
    assert torch.equal(flow.noisy(x0, noise, torch.tensor([1.0, 1.0])), noise)
    sigma = torch.tensor([0.3, 0.8])
    x = flow.noisy(x0, noise, sigma)

    def perfect(x, t, caps):
        assert torch.equal(t, 1 - sigma) and caps == "captions"
        return x0 - noise

    velocity = flow.velocity(perfect, x, sigma, "captions")
    assert torch.equal(velocity, flow.target(x0, noise))
    torch.testing.assert_close(x - sigma.view(-1, 1, 1, 1) * velocity, x0, rtol=1e-5, atol=1e-5)  # one Euler step to 0
    steady = flow.velocity(lambda x, t: torch.outer(t, torch.ones(3)), x, 0.25)
    assert torch.equal(steady, torch.full((2, 3), -0.75))


def test_autoencoder_shift_and_scale(stock, tiny_base):
    model = weights.load_vae(tiny_base)
    pixels = torch.rand(1, 3, 32, 48) * 2 - 1
    mode = stock.vae.encode(pixels).latent_dist.mode()
    expected = (mode - stock.vae.config.shift_factor) * stock.vae.config.scaling_factor
    latents = vae.encode(model, pixels)
    torch.testing.assert_close(latents, expected, **CLOSE)
    decoded = stock.vae.decode(mode, return_dict=False)[0].clamp(-1, 1)
    torch.testing.assert_close(vae.decode(model, latents), decoded, **CLOSE)
    images = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
    assert torch.equal(vae.to_uint8(vae.from_uint8(images)), images)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64)])
def test_sampling_equals_the_pipeline(stock, ours, tiny_base, width, height):
    prompts = ["a full body photo of l3yla, walking", "a medium shot photo of l3yla"]
    seeds = [42, 43]
    embeds = text.encode(*weights.load_text_encoder(tiny_base), prompts)
    images = sampler.sample(ours, weights.load_vae(tiny_base), embeds, width=width, height=height, seeds=seeds)
    noise = torch.stack([sampler.initial_noise(seed, 16, height, width) for seed in seeds])
    expected = stock(
        prompt=list(prompts),
        height=height,
        width=width,
        num_inference_steps=8,
        guidance_scale=0.0,
        latents=noise,
        output_type="np",
    ).images
    expected = (expected * 255).round().astype(int)
    assert np.abs(images.astype(int) - expected).max() <= 1


def test_a_picture_does_not_depend_on_its_batch(ours, tiny_base):
    embeds = text.encode(*weights.load_text_encoder(tiny_base), ["a", "a b c"])
    autoencoder = weights.load_vae(tiny_base)
    both = sampler.sample(ours, autoencoder, embeds, width=64, height=64, seeds=[1, 2], steps=2)
    alone = sampler.sample(ours, autoencoder, embeds[1:], width=64, height=64, seeds=[2], steps=2)
    assert np.abs(both[1].astype(int) - alone[0].astype(int)).max() <= 1


def test_guidance_mixes_with_a_negative_prompt(stock, ours, tiny_base):
    prompt = "a full body photo of l3yla"
    embeds = text.encode(*weights.load_text_encoder(tiny_base), [prompt, ""])
    images = sampler.sample(
        ours, weights.load_vae(tiny_base), embeds[:1], width=64, height=64, seeds=[7], guidance=3.0, negative=embeds[1]
    )
    noise = sampler.initial_noise(7, 16, 64, 64)[None]
    expected = stock(
        prompt=prompt, height=64, width=64, num_inference_steps=8, guidance_scale=2.0, latents=noise, output_type="np"
    ).images
    assert np.abs(images.astype(int) - (expected * 255).round().astype(int)).max() <= 1


def test_padded_length():
    assert [padded_length(n) for n in (1, 32, 33, 64, 65)] == [32, 32, 64, 64, 96]
