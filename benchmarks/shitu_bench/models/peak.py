"""The most FP32 operations a second that a device reaches: in the product of two large square matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shitu_bench.models.devices import Device
from shitu_bench.models.sessions import Runner, SessionPlan, opened, runner

SIDES: Final = {Device.CPU: 2048, Device.CUDA: 8192}
"""Of the matrices. On a GPU smaller ones would leave most of it waiting."""
_SEED: Final = 3
Matrix = NDArray[np.float32]


def peak_runners(plan: SessionPlan) -> Mapping[str, Runner]:
    """Return what multiplies, by the name of its library: ONNX Runtime, and on the CPU numpy's BLAS as well."""
    side = SIDES[plan.device]
    rng = np.random.default_rng(_SEED)
    left, right = (rng.standard_normal((side, side), dtype=np.float32) for _ in range(2))
    session = opened(_product_graph(right).SerializeToString(), plan)
    runners: dict[str, Runner] = {"onnxruntime": runner(session, {"left": left}, plan.device)}
    if plan.device is Device.CPU:
        runners["numpy"] = _numpy_product(left, right)
    return runners


def flops_of_product(device: Device) -> int:
    """Return the operations of one product."""
    return 2 * int(SIDES[device]) ** 3


def _numpy_product(left: Matrix, right: Matrix) -> Callable[[], Matrix]:
    result = np.empty_like(left)
    return lambda: np.matmul(left, right, out=result)


def _product_graph(right: Matrix) -> onnx.ModelProto:
    """The right matrix is a constant, as a layer's weights are: ONNX Runtime arranges it for its kernels beforehand."""
    shape = list(right.shape)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["left", "right"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(right, "right")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
