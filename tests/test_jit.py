import subprocess
import sys

import numba
import pytest
import torch

from seme.kernels.jit import compiled, flat, rows, use_numba


def test_rows_of_one_buffer_are_not_copied():
    matrix = torch.arange(12.0).view(4, 3)
    matrix_rows = rows(matrix.unbind()[1:])
    assert matrix_rows.tolist() == matrix[1:].tolist()
    assert matrix_rows.ctypes.data == matrix[1:].data_ptr()
    wide = torch.arange(40.0).view(4, 10)
    assert rows([row[2:5] for row in wide]).tolist() == wide[:, 2:5].tolist()


def test_rows_in_another_order_are_copied():
    matrix = torch.arange(12.0).view(4, 3)
    for order in ([3, 2, 1], [0, 1, 3], [2, 0, 1]):
        assert rows([matrix[i] for i in order]).tolist() == matrix[order].tolist()
    columns = [matrix[:, i] for i in range(3)]
    assert rows(columns).tolist() == matrix.t().tolist()
    apart = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([5.0, 6.0])]
    assert rows(apart).tolist() == [[1, 2], [3, 4], [5, 6]]


def test_repeated_tensor_becomes_repeated_rows():
    one = torch.tensor([1.0, 2.0])
    assert rows([one, one, one]).tolist() == [[1, 2]] * 3


def test_multidimensional_tensors_are_flattened_to_rows():
    tensors = [torch.arange(4.0).view(2, 2), torch.ones(2, 2)]
    assert rows(tensors).tolist() == [[0, 1, 2, 3], [1, 1, 1, 1]]
    assert rows(torch.arange(8.0).view(2, 2, 2).unbind()).tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert flat(tensors[0].t()).tolist() == [0, 2, 1, 3]


def test_empty_tensors_become_empty_rows():
    assert rows([torch.empty(0), torch.empty(0)]).shape == (2, 0)


def test_numba_is_used_on_the_cpu_only():
    assert use_numba(torch.device("cpu"))
    assert not use_numba(torch.device("cuda"))


def test_uncachable_loop_names_numba_cache_dir(monkeypatch):
    def nowhere(_function):
        raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")

    monkeypatch.setattr(numba, "njit", lambda **_: nowhere)
    with pytest.raises(RuntimeError, match="no locator") as error:
        compiled(len)
    assert "set NUMBA_CACHE_DIR to a writable folder" in error.value.__notes__[0]


def test_kernels_load_without_scipy_which_stays_importable(repository):
    program = (
        "import sys; from seme.kernels.warmup import load; load(2); "
        "assert not [name for name in sys.modules if name.startswith('scipy')]; "
        "import numba, scipy.linalg; assert numba.njit(lambda x: x + 1)(1) == 2"
    )
    subprocess.run([sys.executable, "-c", program], cwd=repository, check=True)
