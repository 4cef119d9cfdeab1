"""famjax.pods.collectives: what a program moves, from its text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from famjax.pods.collectives import Collective, collectives_of, sent_bytes, shape_bytes, total_bytes

# The forms in which TPU's and GPU's compilers write collectives; shapes and attributes as they write them.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.3 (p: f32[64,8]) -> f32[32,8] {
  %p = f32[64,8]{1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[64,8]{1,0:T(8,128)} all-reduce(%p), channel_id=9, replica_groups=[4,2]<=[8], to_apply=%add
  ROOT %slice = f32[32,8]{1,0:T(8,128)} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={32,8}
}

%async_computation (q: f32[16]) -> f32[16] {
  %q = f32[16]{0} parameter(0)
  ROOT %all-to-all.2 = f32[16]{0} all-to-all(%q), channel_id=4, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
}

%inner_body (i: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %i = (s32[]{:T(128)}, bf16[4,8]{1,0:T(4,128)(2,1)}) parameter(0)
  %x = bf16[4,8]{1,0:T(4,128)(2,1)S(1)} get-tuple-element(%i), index=1
  %all-gather-start = (bf16[4,8]{1,0:T(4,128)(2,1)}, bf16[8,8]{1,0:T(8,128)(2,1)}) all-gather-start(%x), channel_id=1, \
replica_groups={{0,2},{1,3},{4,6},{5,7}}, dimensions={0}, use_global_device_ids=true
  %all-gather-done = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather-done(%all-gather-start)
  ROOT %t = (s32[], bf16[4,8]{1,0}) tuple(%n, %y)
}

%inner_condition (j: (s32[], bf16[4,8])) -> pred[] {
  %j = (s32[], bf16[4,8]{1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(7)
  ROOT %less = pred[]{:T(512)} compare(%k, %bound), direction=LT
}

%body (u: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %u = (s32[], f32[64,8]{1,0}) parameter(0)
  %g = f32[64,8]{1,0} get-tuple-element(%u), index=1
  %scattered = f32[32,8]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
  %inner = (s32[], bf16[4,8]{1,0}) while(%v), condition=%inner_condition, body=%inner_body
  ROOT %w = (s32[], f32[64,8]{1,0}) tuple(%m, %g)
}

%condition (c: (s32[], f32[64,8])) -> pred[] {
  %c = (s32[], f32[64,8]{1,0}) parameter(0)
  ROOT %go = pred[] custom-call(%c), custom_call_target="unknown"
}

%taken (s: f32[16]) -> f32[16] {
  %s = f32[16]{0} parameter(0)
  ROOT %all-reduce.1 = f32[16]{0} all-reduce(%s), channel_id=2, replica_groups={}, to_apply=%add
}

%skipped (r: f32[16]) -> f32[16] {
  ROOT %r = f32[16]{0} parameter(0)
}

ENTRY %main (x: f32[64,8], y: f32[16]) -> f32[16] {
  %x.1 = f32[64,8]{1,0} parameter(0)
  %y.1 = f32[16]{0} parameter(1)
  %loop = (s32[], f32[64,8]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0","step":"1"}}
  %choice = f32[16]{0} conditional(%flag, %y.1, %y.1), true_computation=%taken, false_computation=%skipped
  %start.2 = ((f32[16]{0}), f32[16]{0}, u32[]) async-start(%y.1), calls=%async_computation
  %done = f32[16]{0} async-done(%start.2)
  %moved = (f32[16]{0}, f32[16]{0}, u32[], u32[]) collective-permute-start(f32[16]{0} %y.1), channel_id=3, \
source_target_pairs={{0,4},{4,0}}
  %moved-done = f32[16]{0} collective-permute-done(%moved)
  %pair = (f32[16]{0}, /*index=1*/f32[64,8]{1,0}) all-reduce(%y.1, %x.1), channel_id=5, \
replica_groups=[2,4]<=[2,4], to_apply=%add
  %part = f32[16]{0} all-reduce(%y.1), channel_id=7, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0':(1)2}, \
to_apply=%add
  %named = f32[16]{0} all-reduce(%y.1), channel_id=8, replica_groups=mesh['a'=2,'b'=4], \
device_ids=(0,2,4,6,1,3,5,7) {'b'}, to_apply=%add
  %turned = f32[16]{0} all-reduce(%y.1), channel_id=10, replica_groups=mesh['a'=1,'b'=4,'c'=2], \
device_ids=([2,4]T(1,0)) {'b'}, to_apply=%add
  %alone = f32[16]{0} all-reduce(%y.1), channel_id=6, replica_groups=[8,1]<=[8], to_apply=%add
  ROOT %result = f32[16]{0} copy(%done)
}
"""


@pytest.fixture(scope="module")
def mesh():
    """2 x 2 x 2 devices."""
    return Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "model"))


def test_every_form_is_read(mesh):
    """Guards against collectives that are missed, counted twice, or taken for others: loops, async forms, groups."""
    found = {each.name: each for each in collectives_of(PROGRAM, mesh)}
    assert list(found.values()) == [
        Collective("reduce-scatter", ("model",), 2, 2048, 3, "all-reduce.9"),
        Collective("all-gather", ("fsdp",), 2, 64, 21, "all-gather-start"),
        Collective("all-reduce", ("data", "fsdp", "model"), 8, 64, 1, "all-reduce.1"),
        Collective("all-to-all", ("data", "fsdp"), 4, 64, 1, "all-to-all.2"),
        Collective("collective-permute", ("data",), 2, 64, 1, "moved"),
        Collective("all-reduce", ("fsdp", "model"), 4, 2112, 1, "pair"),
        Collective("all-reduce", ("data",), 2, 64, 1, "part"),
        Collective("all-reduce", ("data", "fsdp"), 4, 64, 1, "named"),
        Collective("all-reduce", ("fsdp", "model"), 4, 64, 1, "turned"),
    ]
    assert found["all-gather-start"].bytes == 21 * 64
    assert found["all-gather-start"].whole_bytes == 128
    assert found["all-reduce.9"].bytes == 3 * 1024
    assert total_bytes(list(found.values()))["all-reduce", ("fsdp", "model")] == 2 * 3 * (2112 + 64) // 4


def test_a_compiled_program(mesh):
    """Guards against a form that this version of XLA writes and the reader does not know."""
    everywhere = PartitionSpec(("data", "fsdp", "model"))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    def program(x):
        def turn(x, _):
            whole = jax.lax.all_gather(x, "fsdp", tiled=True)
            part = jax.lax.psum_scatter(whole, "fsdp", tiled=True)
            part = part + jax.lax.psum(part, ("data", "model"))
            return jax.lax.ppermute(part, "model", [(0, 1), (1, 0)]), None

        x, _ = jax.lax.scan(turn, x, None, length=5)
        return jax.lax.all_to_all(x.reshape(2, 2, 4), "data", 0, 0)

    text = jax.jit(program).lower(jax.ShapeDtypeStruct((32, 4), jnp.float32)).compile().as_text()
    found = [(each.kind, each.axes, each.operand_bytes, each.times) for each in collectives_of(text, mesh)]
    assert found == [
        ("all-gather", ("fsdp",), 64, 5),
        ("reduce-scatter", ("fsdp",), 128, 5),
        ("all-reduce", ("data", "model"), 64, 5),
        ("collective-permute", ("model",), 64, 5),
        ("all-to-all", ("data",), 64, 1),
    ]


def test_what_goes_between_slices(mesh):
    """Guards against a network between TPU slices that seems to carry nothing: sends go over it, no collectives."""
    sends = """ENTRY %main () -> f32[] {
  %token = token[] after-all()
  %sum = f32[5,8,128]{2,1,0:T(8,128)} parameter(0)
  %send = (f32[5,8,128], u32[], token[]) send(%sum, %token), channel_id=14, is_host_transfer=true, """
    sends += """frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
}
"""
    (found,) = collectives_of(sends, mesh)
    assert (found.kind, found.axes, found.operand_bytes) == ("all-reduce", ("data",), 4 * 5 * 8 * 128)
    assert found.between_slices
    assert not any(each.between_slices for each in collectives_of(PROGRAM, mesh))


def test_one_that_is_spread_over_fusions_is_one(mesh):
    """Guards against a gather counted as often as TPU's compiler names it: in every fusion beside it."""
    line = """  %{0} = f32[16,8]{{1,0}} all-gather(%{1}), replica_groups=[4,2]<=[8], dimensions={{0}}, \
backend_config={{"async_collective_fusion_config":{{"flag_start":"{2}","flag_end":"{3}"}}}}
"""
    text = "ENTRY %main () -> f32[] {\n  %p = f32[8,8]{1,0} parameter(0)\n"
    parts = (("begun", "p", -1, -1), ("goes-on", "p", 2, 8), ("ended", "p", 2, 8))
    text += "".join(line.format(*part) for part in parts) + "}\n"
    assert [each.name for each in collectives_of(text, mesh)] == ["begun"]


def test_bytes():
    """Guards against a count that takes an all-reduce for as cheap as a reduce-scatter."""
    kinds = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
    assert [sent_bytes(kind, 80, 4) for kind in kinds] == [240, 60, 120, 60, 80]
    assert shape_bytes("(bf16[2,3]{1,0}, pred[5]{0}, f8e4m3fn[3], s4[3]{0}, f32[])") == 12 + 5 + 3 + 2 + 4


def test_what_is_no_program_is_refused(mesh):
    """Guards against a program in a new form that seems to move nothing."""
    with pytest.raises(ValueError, match="no line that begins with ENTRY"):
        collectives_of("", mesh)
    with pytest.raises(ValueError, match=r"alone: groups of devices in an unknown form: @mesh"):
        collectives_of(PROGRAM.replace("[8,1]<=[8]", "@mesh<8>"), mesh)
