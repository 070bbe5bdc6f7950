"""The parts of a model that a task trains one after the other, such as the discriminator and the generator of a GAN."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from heliostat.config import nearest
from heliostat.errors import UserError, some
from heliostat.workloads.task import Task, loss_of
from heliostat.workloads.training.distributed import is_sharded


@dataclass
class Part:
    """What one update of a step trains: a submodule, or the whole model.

    Its optimizer is that of the run, which leaves parameters without a gradient as they are: each parameter has its own state.
    """

    name: str | None
    """None: the whole model."""
    loss: Callable[[nn.Module, Any], Tensor]
    others: list[nn.Parameter]
    """The parameters that it does not train."""
    model: nn.Module
    """What the loss is computed with; with several workers it averages the gradients of this part."""

    def alone(self) -> AbstractContextManager[None]:
        """Keeps the other parameters without gradients meanwhile, so that what is computed with them only has no graph."""
        return self._without_others() if self.others else nullcontext()

    def drop_others(self) -> None:
        """Drops the gradients of the other parameters: those of shards cannot be kept from having them."""
        for parameter in self.others:
            parameter.grad = None

    @contextmanager
    def _without_others(self) -> Iterator[None]:
        # FSDP gives a parameter that it gathers the requires_grad of its shard once, when it is first used (seen on 2.15).
        trained = [parameter for parameter in self.others if parameter.requires_grad and not is_sharded(parameter)]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def parts_of(task: Task, model: nn.Module, parallel: nn.Module, name: str) -> list[Part]:
    """The parts in the order in which a step trains them; of most tasks one, the whole model.

    Args:
        task: of the run.
        model: of the task.
        parallel: what computes its losses.
        name: the task's, for messages.

    Raises:
        UserError: the model has no such part; a parameter belongs to none.
    """
    if not task.parts:
        return [Part(None, task.loss, [], parallel)]
    modules = {path: module for path, module in model.named_modules() if path}
    for part in task.parts:
        if part not in modules or not any(True for _ in modules[part].parameters()):
            top = [path for path, module in modules.items() if any(True for _ in module.parameters())]
            raise UserError(f"task {name} has the part {part!r}, but its model has no such submodule", nearest(part, top))
    idle = [part for part in task.parts if not any(p.requires_grad for p in modules[part].parameters())]
    if idle:
        raise UserError(f"task {name}: all parameters of the part {idle[0]} are frozen", "freeze fewer (optimizer.freeze)")
    own = {part: {id(parameter) for parameter in modules[part].parameters()} for part in task.parts}
    left = [path for path, p in model.named_parameters() if p.requires_grad and not any(id(p) in ids for ids in own.values())]
    if left:
        raise UserError(
            f"task {name}: {some(left, 8)} belong to no part, so nothing would train them",
            f"put them into {' or '.join(dict.fromkeys(task.parts))}, or set requires_grad to False",
        )
    return [
        Part(part, loss_of(task, part), [p for p in model.parameters() if id(p) not in own[part]], parallel)
        for part in task.parts
    ]
