"""Models of one process while DeepSpeed ZeRO-3 divides every model that is made among all of them.

Where ZeRO-3 is on, transformers makes each model in parts, together with all processes. What one process does alone,
as counting parameters or writing the final model, would wait for the others for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers.integrations import deepspeed


@contextlib.contextmanager
def undivided() -> Iterator[None]:
    """Make models whole within the block; without ZeRO-3 they are so anyway."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = None if reference is None else reference()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)
