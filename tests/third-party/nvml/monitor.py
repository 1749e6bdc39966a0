"""NVIDIA's own Python binding of NVML in a guest, beside CUDA through ctypes: both must tell the same.

Prints one line of JSON: what each tells of every device, and how the binding takes what is not supported.
"""

import ctypes
import json

import pynvml

cuda = ctypes.CDLL("libcuda.so.1")


def check(result):
    if result != 0:
        raise RuntimeError(f"CUDA says {result}")


def cuda_device(ordinal):
    name = ctypes.create_string_buffer(96)
    place = ctypes.create_string_buffer(32)
    uuid = (ctypes.c_ubyte * 16)()
    total = ctypes.c_size_t()
    check(cuda.cuDeviceGetName(name, 96, ordinal))
    check(cuda.cuDeviceGetPCIBusId(place, 32, ordinal))
    check(cuda.cuDeviceGetUuid(uuid, ordinal))
    check(cuda.cuDeviceTotalMem_v2(ctypes.byref(total), ordinal))
    digits = bytes(uuid).hex()
    groups = [digits[at:to] for at, to in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))]
    return {
        "name": name.value.decode(),
        "uuid": "GPU-" + "-".join(groups),
        "place": place.value.decode().lower(),
        "total": total.value,
    }


def nvml_device(index):
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    newer = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    assert (memory.total, memory.used) == (newer.total, newer.used)
    assert memory.used + memory.free <= memory.total
    uuid = pynvml.nvmlDeviceGetUUID(handle)
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == index
    place = pynvml.nvmlDeviceGetPciInfo(handle).busId
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(place)) == index
    return {
        "name": pynvml.nvmlDeviceGetName(handle),
        "uuid": uuid,
        # Of the domain's eight digits, CUDA writes four.
        "place": place[4:].lower(),
        "total": memory.total,
    }


def refused(ask, *arguments):
    try:
        ask(*arguments)
    except pynvml.NVMLError as error:
        return error.value
    return 0


def main():
    pynvml.nvmlInit()
    pynvml.nvmlInit()
    devices = [nvml_device(index) for index in range(pynvml.nvmlDeviceGetCount())]
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    unsupported = {
        "temperature": refused(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "power": refused(pynvml.nvmlDeviceGetPowerUsage, handle),
        "processes": refused(pynvml.nvmlDeviceGetComputeRunningProcesses, handle),
        "MIG": refused(pynvml.nvmlDeviceGetMigMode, handle),
        "serial": refused(pynvml.nvmlDeviceGetSerial, handle),
    }
    versions = [pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlSystemGetNVMLVersion()]
    pynvml.nvmlShutdown()
    pynvml.nvmlShutdown()
    after = refused(pynvml.nvmlDeviceGetCount)

    check(cuda.cuInit(0))
    count = ctypes.c_int()
    check(cuda.cuDeviceGetCount(ctypes.byref(count)))
    answer = {
        "nvml": devices,
        "cuda": [cuda_device(ordinal) for ordinal in range(count.value)],
        "versions": versions,
        "unsupported": unsupported,
        "after shutdown": after,
    }
    print(json.dumps(answer))


main()
