"""llama.cpp's server, from the package xllamacpp: python serve_llama_cpp.py MODEL.gguf ADAPTER.gguf REQUESTS

Runs in an environment of its own, without this project. Prints the address, and serves until its input ends.
"""

import sys

import xllamacpp

model, adapter, together = sys.argv[1:]
parameters = xllamacpp.CommonParams()
parameters.model.path = model
lora = xllamacpp.CommonAdapterLoraInfo()
lora.path, lora.scale = adapter, 1.0
parameters.lora_adapters = [lora]
parameters.lora_init_without_apply = True  # what acts is said by each request
parameters.n_parallel, parameters.n_ctx, parameters.n_gpu_layers = int(together), 512 * int(together), 0
parameters.hostnames, parameters.port = ["127.0.0.1"], 0
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
