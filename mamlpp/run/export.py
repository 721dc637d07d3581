"""The weights of a run for use without this kit: a plain network of PyTorch, and its file."""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from mamlpp.errors import InputError
from mamlpp.files import replacing, user_path
from mamlpp.input_checks import whole_number
from mamlpp.learner import MetaLearner
from mamlpp.network import BLOCKS, BatchNorm, Block, ConvNet
from mamlpp.run.run import Run


def plain_network(learner: MetaLearner, step: int = 0) -> nn.Sequential:
    """The kit's network as an `nn.Sequential` of PyTorch's own layers, with its initial weights.

    Of batch norm that has values for each step, those of `step` inner steps: 0 to adapt it further,
    with other values at each step; the last for weights that were adapted. Without running
    statistics its batch norm uses those of the batch. Raises `InputError` for another network.
    """
    network, step = getattr(learner, "network", None), whole_number("step", step, least=0)
    if not isinstance(learner, MetaLearner):
        kind = type(learner).__name__
        raise InputError(f"a MetaLearner is expected, such as run.learner, not {kind}")
    if not isinstance(network, ConvNet):
        raise InputError(
            f"only the kit's own network is written as plain layers, not {type(network).__name__}; "
            f"you have its class: save its state_dict()"
        )
    layers: list[nn.Module] = []
    for block in network.blocks:
        assert isinstance(block, Block)
        layers += [block.conv, _plain_norm(block.norm, step), nn.ReLU(), block.halve]
    pool = [nn.AdaptiveAvgPool2d(1)] if network.pooling == "stride" else []
    return nn.Sequential(*layers, *pool, nn.Flatten(), network.head)


def export(run: Run, path: Path | str, step: int = 0) -> Path:
    """Write the best weights of a run to a `.safetensors` file, or any other as `torch.save` does.

    The names are those of `plain_network`; the metadata has the layers and, of batch norm, of which
    step its values are. Of a network of your own it is its `state_dict`. Returns the path. Raises
    `InputError` where it cannot be written.
    """
    if not isinstance(run, Run):
        raise InputError(
            f"a Run is expected, such as load_run gives, not {type(run).__name__}; of a learner, "
            f"save plain_network(learner).state_dict()"
        )
    path, learner = user_path(path), run.learner
    about = {"step": str(step), "layers": "", "recipe": json.dumps(run.recipe.as_dict())}
    network: nn.Module = learner.network
    if isinstance(network, ConvNet):
        network = plain_network(learner, step)
        about["layers"] = str(network)
    plain = torch.contiguous_format
    state = {
        name: x.detach().cpu().clone(memory_format=plain)
        for name, x in network.state_dict().items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            if path.suffix == ".safetensors":
                part.write_bytes(save(state, about))
            else:
                torch.save(state, part)
    except OSError as error:
        raise InputError(f"nothing can be written to {path} ({error})") from error
    return path


def mapping(learner: MetaLearner) -> dict[str, str]:
    """The name of each tensor of `plain_network`, and its name in the learner's network."""
    names: dict[str, str] = {}
    for i in range(BLOCKS):
        names[f"{4 * i}.weight"] = f"blocks.{i}.conv.weight"
        for part in ("weight", "bias", "running_mean", "running_var"):
            names[f"{4 * i + 1}.{part}"] = f"blocks.{i}.norm.{part}[step]"
    last = len(plain_network(learner)) - 1
    found = names | {f"{last}.{part}": f"head.{part}" for part in ("weight", "bias")}
    return {name: found[name] for name in plain_network(learner).state_dict() if name in found}


def _plain_norm(norm: BatchNorm, step: int) -> nn.BatchNorm2d:
    (weight, bias), running = norm.affine(step), len(norm.running_mean) > 0
    plain = nn.BatchNorm2d(len(weight), norm.eps, track_running_stats=running)
    plain.weight, plain.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    if running:
        plain.running_mean, plain.running_var = (x.clone() for x in norm.running(step))
    return plain.to(weight.device).eval()
