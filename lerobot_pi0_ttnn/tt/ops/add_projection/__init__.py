"""The end of a branch in one program of our own: a projection that is added to the stream.

Tested in tests/parity/test_tt_add_projection.py.
"""

from .add_projection import ADD_PROJECTION, add_projection
from .plan import AddProjectionPlan, add_projection_plan

__all__ = ["ADD_PROJECTION", "AddProjectionPlan", "add_projection", "add_projection_plan"]
