"""The modules that importing the kernels loads."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["upfirdn2d", "bias_act", "modulated_conv2d"])
def test_kernels_import_triton_and_not_torch(module):
    code = f"import stylert.plugins.triton.{module}, sys; assert 'triton' in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shape_rules_and_the_fold_import_neither_torch_nor_triton():
    code = "import stylert.plugins.triton, stylert.plugins.shapes, stylert.plugins.fir_folding, stylert.plugins.aot, sys\n"
    code += "assert not {'torch', 'triton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
