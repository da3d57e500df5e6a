"""The miniature CLIP: an open_clip model of 64-pixel portraits and captions, trained from nothing.

Its text tower is at the same time the text encoder of the miniature pipeline: `text_encoder` writes it in the form that
transformers' CLIPTextModel loads.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

from harness.images import atomic_write
from harness.world.captions import caption
from harness.world.training import Schedule, device, fit
from harness.world.truths import occupation

if TYPE_CHECKING:
    import torch

CONTEXT = 40
WIDTH = 192
SHAPE = {"embed_dim": 128, "quick_gelu": False,
         "vision_cfg": {"image_size": 64, "layers": 6, "width": 192, "head_width": 32, "patch_size": 8},
         "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 6, "layers": 4}}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"}
SCHEDULE = Schedule(steps=2000, batch=128, learning_rate=1e-3, weight_decay=0.1, ema=0.998)


def build(folder: Path, images: "torch.Tensor", table: Any, progress: Callable[[dict], None], how: Schedule = SCHEDULE) -> Any:
    """Train on uint8 images (n, 3, 64, 64) and their truth table; save an open_clip folder `folder/clip`; returns (model, curve).

    Source of the loss: Radford et al. 2021, figure 3 (symmetric cross-entropy over the batch's similarity matrix).
    """
    import open_clip
    import torch

    torch.manual_seed(how.seed)
    model = open_clip.CLIP(**SHAPE).to(device())
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    truth = table.to_dict("records")
    criterion = open_clip.ClipLoss()

    def loss(generator: "torch.Generator", step: int) -> "torch.Tensor":
        index = torch.randint(len(images), (how.batch,), generator=generator)
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        text = tokenizer(captions([truth[i] for i in index.tolist()], rng)).to(device())
        out = model(_augment(images[index], generator), text)
        return criterion(out[0], out[1], out[2].clamp(max=100.0))

    curve = fit(model, loss, how, folder, progress, "clip")
    save(model, folder / "clip")
    return model, curve


def captions(rows: Sequence[dict[str, str]], rng: random.Random) -> list[str]:
    """A fresh caption for each row of truth, with the planted skews."""
    return [caption(r, r["artist"], rng, occupation(r, rng)) for r in rows]


def _augment(batch: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """Flips, shifts of up to 4 pixels, a little light and a little blur: what a decoder or a resize may do to a picture."""
    import torch
    import torch.nn.functional as F

    x = batch.float() / 127.5 - 1
    x = torch.where((torch.rand(len(x), generator=generator) < 0.5)[:, None, None, None], x.flip(-1), x)
    dx, dy = torch.randint(0, 9, (2,), generator=generator).tolist()
    x = F.pad(x, (4, 4, 4, 4), mode="replicate")[:, :, dy : dy + 64, dx : dx + 64]
    x = (x * (1 + 0.1 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5))).clamp(-1, 1)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = 0.7 * torch.rand(len(x), 1, 1, 1, generator=generator) * (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.4)
    return (x + amount * (blurred - x)).to(device())


def save(model: Any, folder: Path) -> None:
    """Write a folder that plain open_clip loads with `local-dir:`: half-precision safetensors and open_clip_config.json."""
    from safetensors.torch import save

    weights = {k: v.detach().half().cpu().contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    atomic_write(folder / "open_clip_model.safetensors", save(weights))
    config = {"model_cfg": {k: v for k, v in SHAPE.items()}, "preprocess_cfg": PREPROCESS}
    atomic_write(folder / "open_clip_config.json", json.dumps(config, indent=2) + "\n")


def load(folder: Path) -> Any:
    """The open_clip model that `build` saved below a folder, in float32 on this device."""
    import open_clip

    return open_clip.create_model(f"local-dir:{folder / 'clip'}").eval().to(device())


def text_encoder(model: Any) -> Any:
    """The text tower of an open_clip model with SHAPE's text_cfg, as a transformers CLIPTextModel with the same outputs."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    text = SHAPE["text_cfg"]
    config = CLIPTextConfig(vocab_size=text["vocab_size"], hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=text["layers"],
                            num_attention_heads=text["heads"], max_position_embeddings=CONTEXT, hidden_act="gelu", projection_dim=SHAPE["embed_dim"],
                            pad_token_id=0, bos_token_id=49406, eos_token_id=49407)
    encoder, source = CLIPTextModel(config), model.state_dict()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(_tower_weight(name.removeprefix("text_model."), source))
    return encoder.eval()


_NAMES = {"embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight": "positional_embedding",
          "final_layer_norm.": "ln_final.", "encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
          "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}


def _tower_weight(name: str, source: dict[str, "torch.Tensor"]) -> "torch.Tensor":
    """The open_clip tensor for a CLIPTextModel parameter; open_clip keeps query, key and value in one matrix."""
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
        if f"self_attn.{part}" in name:
            block, kind = name.split(".self_attn.")[0], name.rsplit(".", 1)[1]
            return source[f"{block}.attn.in_proj_{kind}"].chunk(3)[i]
    return source[name]
