"""Tiny random models of the families that the harness knows, built in code in under a second each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd

from harness import guard
from harness.images import ImageSet, write_set

guard.install()

CONTEXT = 16
PIXELS = 16


def tokenizer(context: int = CONTEXT) -> object:
    """CLIP's own byte-pair tokenizer, cut to its first 500 merges."""
    import open_clip
    from open_clip.tokenizer import bytes_to_unicode
    from transformers import CLIPTokenizer

    vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.open(vocabulary, "rt", encoding="utf-8").read().split("\n")[1:501]
    merges = [tuple(line.split()) for line in lines]
    letters = list(bytes_to_unicode().values())
    words = letters + [f"{x}</w>" for x in letters] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=merges, model_max_length=context)


def text_encoder(tokens: object, width: int = 16, act: str = "quick_gelu", projection: int | None = None) -> object:
    """A CLIP text tower of two layers; with `projection` the kind that SDXL's second one is."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=tokens.model_max_length, hidden_act=act, projection_dim=projection or width,
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id)
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def vae() -> object:
    """An AutoencoderKL of factor 2 with 4 latent channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
                         up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, layers_per_block=1, sample_size=PIXELS)


def unet(cross: int, **extra: object) -> object:
    """A U-Net of two levels with cross attention to `cross` wide text."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=PIXELS // 2, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        cross_attention_dim=cross, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **extra)


def noise(prediction: str, zero_snr: bool = False) -> object:
    """A DDPM schedule with the numbers of Stable Diffusion."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction,
                         clip_sample=False, steps_offset=1, rescale_betas_zero_snr=zero_snr)


def sd(folder: Path, prediction: str = "epsilon", act: str = "quick_gelu", checker: bool = False) -> Path:
    """An SD 1.x (epsilon) or, with v_prediction and gelu, SD 2.x like pipeline as a diffusers folder."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    tokens = tokenizer()
    pipe = StableDiffusionPipeline(
        vae=vae(), unet=unet(16), text_encoder=text_encoder(tokens, act=act), tokenizer=tokens, scheduler=noise(prediction),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(folder)
    if checker:
        index = folder / "model_index.json"
        listed = json.loads(index.read_text()) | {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
        index.write_text(json.dumps(listed))
    return folder


def sd2(folder: Path) -> Path:
    """SD 2.x like: v-prediction, an OpenCLIP-like text tower."""
    return sd(folder, prediction="v_prediction", act="gelu")


def sdxl(folder: Path) -> Path:
    """SDXL like: two text towers, pooled embedding and time ids."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(0)
    tokens = tokenizer()
    net = unet(32, addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=1,
               projection_class_embeddings_input_dim=6 * 8 + 16)
    StableDiffusionXLPipeline(
        vae=vae(), unet=net, text_encoder=text_encoder(tokens), tokenizer=tokens, tokenizer_2=tokens, scheduler=noise("epsilon"),
        text_encoder_2=text_encoder(tokens, act="gelu", projection=16)).save_pretrained(folder)
    return folder


FAMILIES = {"sd1": sd, "sd2": sd2, "sdxl": sdxl}


def clip(folder: Path) -> Path:
    """A random open_clip model as a folder that `local-dir:` loads."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    vision = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    shape = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    model = open_clip.CLIP(8, vision, text)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": shape, "preprocess_cfg": {"size": 16}}))
    return folder


def pictures(folder: Path, n: int = 6, size: int = PIXELS, artist: str = "artist-07", seed: int = 0) -> ImageSet:
    """`n` different pictures with captions, of one artist."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return write_set(folder, images, pd.DataFrame({"caption": [f"a portrait {i}" for i in range(n)], "artist": artist}))
