"""Reading: one call is checked, aligned, read chunk by chunk and collected; what it leaves is a cache.

The way of `input_ids` to the fast weights and back:

1. `call.check` compares ids, mask and positions with what the cache has read, and `align` moves padding behind each
   row's real tokens.
2. `reading.read` cuts them where chunks end. Each segment is one forward on a fork of the cache.
3. The family's own layers run inside one `ForwardContext`: `window` builds their masks, and at each site a hook adds
   the row's fast weights to a projection (`inner.layer`), as `memory.batch` does for memories.
4. A full chunk goes through `inner.learning.inner_step`; its new fast weights go into the cache.
5. `call.Collector` puts the logits back into the columns that their tokens came from.

Behind a full window 2 to 4 can be done over keys and values that never move (`ring.py`), on CUDA by graphs
(`captured.py`). `reading.py` remains the definition: tests compare.

Three words, used this way everywhere:

- The *cache* (`TTTCache`, `cache.py`) is all that a conversation carries from call to call, for every row of a batch.
- The *kv* (`kv.py`) are the keys and values in it that later tokens may still attend to, under the window.
- The *state* (`state.py`) is the rest of a row: fast weights, the unfinished chunk, sinks, and the gates' state.
"""
