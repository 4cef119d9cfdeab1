"""Whether a run can be laid out on the devices that a launch gives it: what its own start would refuse."""

from typing import Any

from famjax.errors import ConfigError
from famjax.launch.config import LaunchConfig


def check_devices(config: LaunchConfig, job: Any) -> None:
    """Makes the checks of devices that a training or an evaluation makes at its start; other runs have none here.

    Args:
      config: the launch.
      job: the run's settings.

    Raises:
      ConfigError: a mesh that does not divide the devices, a batch or a dimension of the model that does not divide
        over the mesh.
    """
    from famjax.evaluation.config import EvalJob
    from famjax.training.config import TrainJob

    if not isinstance(job, TrainJob | EvalJob):
        return
    import jax

    from famjax.configuration.job_checks import check_batch, check_processes
    from famjax.pods.mesh import absent_devices, make_mesh, num_batch_shards
    from famjax.training.program import abstract_params, make_program

    jax.config.update("jax_platforms", "cpu")  # The devices of this machine are left alone.
    one = config.gpus if config.platform == "slurm" else config.tpu
    devices = absent_devices(config.num_slices * one.chips, one.chips_per_host)
    try:
        mesh = make_mesh(job.mesh, devices)
        check_processes(job.mesh, config.num_slices * one.hosts)
        check_batch(job, num_batch_shards(mesh))
        if isinstance(job, TrainJob):
            make_program(job, devices)
        elif job.model is not None:
            abstract_params(job.model, mesh, job.mesh)
    except ConfigError as error:
        slices = f"{config.num_slices} x " if config.num_slices > 1 else ""
        raise ConfigError(f"On {slices}{one.name}, {len(devices)} chips: {error}") from error
