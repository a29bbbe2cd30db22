from tests.study.conftest import _data_cache, work

__all__ = ["_data_cache", "work"]
