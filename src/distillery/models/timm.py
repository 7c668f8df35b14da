"""The backbones of timm, by name. timm is imported when one is asked for: that takes seconds, and tables need none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from distillery.errors import InputError, first_line
from distillery.models import MODELS, InputSpec
from distillery.ops.images import Normalised


def _known(options: dict[str, object]) -> None:
    import timm

    arch, checkpoint = str(options["arch"]), options["checkpoint"]
    if not timm.is_model(arch.split(".")[0]):
        raise InputError(f"arch: unknown timm model: {_nearest(arch)}")
    if checkpoint is not None and not Path(str(checkpoint)).expanduser().is_file():
        raise InputError(f"checkpoint: expected a file, got {checkpoint!r}, which does not exist")


def _nearest(name: str) -> str:
    import difflib

    import timm

    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f"got {name!r}" + (
        f", did you mean {', '.join(near)}?" if near else f"; see timm.list_models({name[:4]!r}...)"
    )


@MODELS.register("timm", kinds=("image",), network=True, check=_known)
def timm_network(
    spec: InputSpec,
    *,
    arch: str,
    pretrained: bool = False,
    checkpoint: str | None = None,
    kwargs: dict[str, object] = {},  # noqa: B006 - read only, and its type is the option's type
) -> nn.Module:
    """A timm backbone with a head for the classes at hand, normalisation inside.

    Args:
        spec: Size and channels of the images.
        arch: timm's name of the model, for instance ``resnet18``.
        pretrained: Start from timm's published weights (and normalise as they expect).
        checkpoint: Start from this file (safetensors or a state dict); a head for other classes is left out.
        kwargs: Further arguments of the model's own builder, for instance ``{channels: [8, 16, 32, 64]}``.

    Raises:
        InputError: The arguments or the checkpoint do not fit the model.
    """
    import timm

    channels, size, _ = spec.shape
    try:
        config = timm.get_pretrained_cfg(arch)
    except RuntimeError as error:
        raise InputError(f"arch: {first_line(error)}") from error
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    if config is not None and config.fixed_input_size:
        arguments.setdefault("img_size", size)
    try:
        backbone: Any = timm.create_model(
            arch, pretrained=pretrained, in_chans=channels, num_classes=spec.classes, **arguments
        )
    except Exception as error:
        raise InputError(f"timm cannot build {arch!r} with {arguments}: {first_line(error)}") from error
    if checkpoint is not None:
        _load(backbone, checkpoint)
    if pretrained and channels == 3:
        mean, std = (tuple(255 * v for v in backbone.pretrained_cfg[k]) for k in ("mean", "std"))
    else:
        mean, std = spec.mean, spec.std
    return Normalised(backbone, mean, std)


def _load(backbone: Any, checkpoint: str) -> None:
    import timm

    try:
        state = timm.models.load_state_dict(str(Path(checkpoint).expanduser()), weights_only=True)
    except Exception as error:
        raise InputError(f"checkpoint: cannot read {checkpoint!r}: {first_line(error)}") from error
    own = backbone.state_dict()
    head = {k for k in own if k.rsplit(".", 1)[0] in str(backbone.pretrained_cfg.get("classifier", "")).split()}
    differs = [k for k in own if k not in state or state[k].shape != own[k].shape]
    if set(differs) - head:
        key = sorted(set(differs) - head)[0]
        got = tuple(state[key].shape) if key in state else "nothing"
        raise InputError(f"checkpoint {checkpoint!r}: expected {key!r} of shape {tuple(own[key].shape)}, got {got}")
    backbone.load_state_dict({k: v for k, v in state.items() if k in own and k not in differs}, strict=False)
