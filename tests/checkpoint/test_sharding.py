from mergeopt.checkpoint.sharding import index_document, plan_shards


def test_one_file_where_it_fits() -> None:
    (shard,) = plan_shards([("b", 5), ("a", 5)], 10)
    assert (shard.file, shard.tensors, shard.nbytes) == ("model.safetensors", ("b", "a"), 10)


def test_a_shard_ends_before_the_tensor_that_would_exceed_it() -> None:
    shards = plan_shards([("a", 6), ("b", 4), ("c", 1), ("huge", 99), ("d", 10)], 10)
    assert [shard.tensors for shard in shards] == [("a", "b"), ("c",), ("huge",), ("d",)]
    assert [shard.file for shard in shards] == [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]


def test_a_first_tensor_beyond_the_limit_leaves_no_empty_shard() -> None:
    assert [shard.tensors for shard in plan_shards([("huge", 99)], 10)] == [("huge",)]


def test_the_index_lists_every_tensor_and_the_bytes() -> None:
    index = index_document(plan_shards([("a", 6), ("b", 5)], 10))
    assert index == {
        "metadata": {"total_size": 11},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
