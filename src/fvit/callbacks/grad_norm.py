"""How large the gradient is, before it is clipped."""

from lightning import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class GradNorm(Callback):
    """Logs ``grad_norm``, the 2-norm of the gradient over all parameters, of the steps that are logged.

    Lightning's clipping computes the same norm and throws it away. This pass over the gradients is a second one, of
    the logged steps alone.
    """

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are accumulated, averaged over ranks and unscaled by now, and not yet clipped."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps:
            return
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        # Of sharded parameters (FSDP) it is a norm whose parts lie on the ranks.
        module.log("grad_norm", norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
