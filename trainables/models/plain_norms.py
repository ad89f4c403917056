"""Normalisations of other libraries as those of PyTorch, which can be folded."""

from torch import nn


def with_plain_norms(network: nn.Module) -> nn.Module:
    """The network itself, whose normalisations are `nn.BatchNorm2d`, from which others differ.

    Those of timm have an activation in them, and those of several processes are not traced.
    """
    for name, module in list(network.named_modules()):
        is_fused = isinstance(module, nn.BatchNorm2d) and hasattr(module, "act")
        if not is_fused and not isinstance(module, nn.SyncBatchNorm):
            continue
        assert isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)
        options = module.eps, module.momentum, module.affine, module.track_running_stats
        norm: nn.Module = nn.BatchNorm2d(module.num_features, *options)
        norm.load_state_dict({key: module.state_dict()[key] for key in norm.state_dict()})
        if is_fused:
            norm = nn.Sequential(norm, module.get_submodule("act"))
        network.set_submodule(name, norm)
    return network
