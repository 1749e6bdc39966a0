//! Every function of NVML that this library exports, declared once, by C signature.
//!
//! Three lists: `answered`; `device`, functions of a device that a share of it has no answer to, whose
//! first parameter is left out here; `other`, the same without a device. The latter two answer
//! `NVML_ERROR_NOT_SUPPORTED`, which NVML's callers are made for, and are there because a program that is
//! linked to NVML does not start without them. Must never hold logic of any one function.

use crate::errors::Failure;
use crate::{api, link};
use nvml_wrapper_sys::bindings::*;
use std::ffi::{c_char, c_int, c_uint, c_ulong, c_ulonglong};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whether a function has an answer.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Answered {
    /// It has.
    Yes,
    /// `NVML_ERROR_NOT_SUPPORTED`.
    No,
}

/// One export, for tables and checks.
#[derive(Copy, Clone, Debug)]
pub struct Function {
    /// The symbol.
    pub name: &'static str,
    /// Whether it has an answer.
    pub answered: Answered,
    /// What it tells, in a line; empty where there is no answer.
    pub doc: &'static str,
}

/// Runs an exported function's body; a panic inside becomes `NVML_ERROR_UNKNOWN`.
fn guard(body: impl FnOnce() -> Result<(), Failure>) -> nvmlReturn_t {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Failure::UNKNOWN));
    result
        .err()
        .map_or(nvmlReturn_enum_NVML_SUCCESS, |failure| failure.0)
}

macro_rules! functions {
    (
        answered { $($(#[doc = $doc:literal])+ $name:ident ($($p:ident: $t:ty),*);)* }
        device { $($dname:ident ($($dp:ident: $dt:ty),*);)* }
        other { $($oname:ident ($($op:ident: $ot:ty),*);)* }
    ) => {
        impl Function {
            /// Every export but `nvmlErrorString`, in the order of the declaration.
            pub const ALL: &'static [Function] = &[
                $(Function { name: stringify!($name), answered: Answered::Yes, doc: concat!($($doc),+) },)*
                $(Function { name: stringify!($dname), answered: Answered::No, doc: "" },)*
                $(Function { name: stringify!($oname), answered: Answered::No, doc: "" },)*
            ];
        }

        #[allow(unused_variables, clippy::missing_safety_doc, clippy::too_many_arguments, reason = "contracts and signatures are NVML's; a function without an answer reads no parameter")]
        mod exports {
            use super::*;
            $(
                $(#[doc = $doc])+
                #[unsafe(no_mangle)]
                pub unsafe extern "C" fn $name($($p: $t),*) -> nvmlReturn_t {
                    // SAFETY: the caller of this C function vouches for its pointers, as NVML's contract asks.
                    guard(|| unsafe { api::$name($($p),*) })
                }
            )*
            $(
                #[unsafe(no_mangle)]
                pub unsafe extern "C" fn $dname(device: nvmlDevice_t, $($dp: $dt),*) -> nvmlReturn_t {
                    guard(|| api::ordinal(device).and(Err(Failure::NOT_SUPPORTED)))
                }
            )*
            $(
                #[unsafe(no_mangle)]
                pub unsafe extern "C" fn $oname($($op: $ot),*) -> nvmlReturn_t {
                    guard(|| link::initialized().and(Err(Failure::NOT_SUPPORTED)))
                }
            )*
            /// A code in words, of any number. May be called at any time.
            #[unsafe(no_mangle)]
            pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
                crate::errors::text(result).as_ptr()
            }
        }

        /// Never called: it compiles while every export has the signature of NVML's header, as bindgen
        /// read it.
        #[cfg(test)]
        #[allow(dead_code, reason = "it is for the compiler alone")]
        fn signatures(header: &NvmlLib) {
            fn same<F>(_: &Result<F, impl std::error::Error>, _: F) {}
            same(&header.nvmlErrorString, exports::nvmlErrorString);
            $(same(&header.$name, exports::$name);)*
            $(same(&header.$dname, exports::$dname);)*
            $(same(&header.$oname, exports::$oname);)*
        }
    };
}
functions! {
answered {
    /// Connects to the backend; counted.
    nvmlInit_v2();
    /// The same, by its old name.
    nvmlInit();
    /// The same; its flags make no difference here.
    nvmlInitWithFlags(flags: c_uint);
    /// Undoes one `nvmlInit`; the last one closes the channel.
    nvmlShutdown();
    /// The oldest release of NVIDIA's driver that has the CUDA version offered: what programs compare with.
    nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint);
    /// The same with NVML's major number in front.
    nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint);
    /// The CUDA version offered, as `cuDriverGetVersion` says.
    nvmlSystemGetCudaDriverVersion(cudaDriverVersion: *mut c_int);
    /// The same.
    nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion: *mut c_int);
    /// 0: there are no S-class units.
    nvmlUnitGetCount(unitCount: *mut c_uint);
    /// 0: no device is excluded.
    nvmlGetExcludedDeviceCount(deviceCount: *mut c_uint);
    /// Devices that this domain has, in CUDA's order.
    nvmlDeviceGetCount_v2(deviceCount: *mut c_uint);
    /// The same, by its old name.
    nvmlDeviceGetCount(deviceCount: *mut c_uint);
    /// The device with an index, which is its CUDA ordinal.
    nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t);
    /// The same, by its old name.
    nvmlDeviceGetHandleByIndex(index: c_uint, device: *mut nvmlDevice_t);
    /// The device with a UUID (`GPU-…`).
    nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t);
    /// The device with a UUID, as text or as bytes.
    nvmlDeviceGetHandleByUUIDV(uuid: *const nvmlUUID_t, device: *mut nvmlDevice_t);
    /// The device at a PCI address.
    nvmlDeviceGetHandleByPciBusId_v2(pciBusId: *const c_char, device: *mut nvmlDevice_t);
    /// The same, by its old name.
    nvmlDeviceGetHandleByPciBusId(pciBusId: *const c_char, device: *mut nvmlDevice_t);
    /// The name, as `cuDeviceGetName`.
    nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint);
    /// Unknown: the name tells.
    nvmlDeviceGetBrand(device: nvmlDevice_t, type_: *mut nvmlBrandType_t);
    /// The index, which is the CUDA ordinal.
    nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint);
    /// The UUID, as `cuDeviceGetUuid`.
    nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint);
    /// Disabled: a share has no display.
    nvmlDeviceGetDisplayMode(device: nvmlDevice_t, display: *mut nvmlEnableState_t);
    /// Disabled: a share has no display.
    nvmlDeviceGetDisplayActive(device: nvmlDevice_t, isActive: *mut nvmlEnableState_t);
    /// Where the device is in the machine that has it, as `cuDeviceGetPCIBusId`; the vendor's numbers are 0.
    nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t);
    /// The same in the structure's second form, which ends with `pciSubSystemId`.
    nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t);
    /// The same in the structure's first form, which ends with `pciDeviceId`.
    nvmlDeviceGetPciInfo(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t);
    /// The same with the PCI class: a 3D controller.
    nvmlDeviceGetPciInfoExt(device: nvmlDevice_t, pci: *mut nvmlPciInfoExt_t);
    /// The highest clock of the processors and of the memory, in MHz, as the device's attributes say.
    nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, type_: nvmlClockType_t, clock: *mut c_uint);
    /// The domain's memory on the device: its quota (else the device's memory), what all its programs have allocated, the difference.
    nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t);
    /// The same; nothing is reserved.
    nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t);
    /// What the domain has had of the device's time in the last second, in percent: `gpu` for kernels, `memory` for copies between host and device.
    nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, utilization: *mut nvmlUtilization_t);
    /// Who may have contexts, as the device's attribute says.
    nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t);
    /// The compute capability, as the device's attributes say.
    nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int);
    /// The architecture that has this compute capability.
    nvmlDeviceGetArchitecture(device: nvmlDevice_t, arch: *mut nvmlDeviceArchitecture_t);
    /// Whether memory has error correction, as the device's attribute says.
    nvmlDeviceGetEccMode(device: nvmlDevice_t, current: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t);
    /// Whether the board has several devices, as the device's attribute says.
    nvmlDeviceGetMultiGpuBoard(device: nvmlDevice_t, multiGpuBool: *mut c_uint);
    /// Bits of the bus to the memory, as the device's attribute says.
    nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, busWidth: *mut c_uint);
    /// Several values at once; each is answered with "not supported".
    nvmlDeviceGetFieldValues(device: nvmlDevice_t, valuesCount: c_int, values: *mut nvmlFieldValue_t);
    /// No: devices here are whole, or appear so.
    nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, isMigDevice: *mut c_uint);
    /// 0: a share is not divided further.
    nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint);
}
device {
    nvmlDeviceGetAttributes_v2(attributes: *mut nvmlDeviceAttributes_t);
    nvmlDeviceGetSerial(serial: *mut c_char, length: c_uint);
    nvmlDeviceGetModuleId(moduleId: *mut c_uint);
    nvmlDeviceGetC2cModeInfoV(c2cModeInfo: *mut nvmlC2cModeInfo_v1_t);
    nvmlDeviceGetMemoryAffinity(nodeSetSize: c_uint, nodeSet: *mut c_ulong, scope: nvmlAffinityScope_t);
    nvmlDeviceGetCpuAffinityWithinScope(cpuSetSize: c_uint, cpuSet: *mut c_ulong, scope: nvmlAffinityScope_t);
    nvmlDeviceGetCpuAffinity(cpuSetSize: c_uint, cpuSet: *mut c_ulong);
    nvmlDeviceSetCpuAffinity();
    nvmlDeviceClearCpuAffinity();
    nvmlDeviceGetNumaNodeId(node: *mut c_uint);
    nvmlDeviceGetAddressingMode(mode: *mut nvmlDeviceAddressingMode_t);
    nvmlDeviceGetRepairStatus(repairStatus: *mut nvmlRepairStatus_t);
    nvmlDeviceGetTopologyCommonAncestor(device2: nvmlDevice_t, pathInfo: *mut nvmlGpuTopologyLevel_t);
    nvmlDeviceGetTopologyNearestGpus(level: nvmlGpuTopologyLevel_t, count: *mut c_uint, deviceArray: *mut nvmlDevice_t);
    nvmlDeviceGetP2PStatus(device2: nvmlDevice_t, p2pIndex: nvmlGpuP2PCapsIndex_t, p2pStatus: *mut nvmlGpuP2PStatus_t);
    nvmlDeviceGetMinorNumber(minorNumber: *mut c_uint);
    nvmlDeviceGetBoardPartNumber(partNumber: *mut c_char, length: c_uint);
    nvmlDeviceGetInforomVersion(object: nvmlInforomObject_t, version: *mut c_char, length: c_uint);
    nvmlDeviceGetInforomImageVersion(version: *mut c_char, length: c_uint);
    nvmlDeviceGetInforomConfigurationChecksum(checksum: *mut c_uint);
    nvmlDeviceValidateInforom();
    nvmlDeviceGetLastBBXFlushTime(timestamp: *mut c_ulonglong, durationUs: *mut c_ulong);
    nvmlDeviceGetPersistenceMode(mode: *mut nvmlEnableState_t);
    nvmlDeviceGetMaxPcieLinkGeneration(maxLinkGen: *mut c_uint);
    nvmlDeviceGetGpuMaxPcieLinkGeneration(maxLinkGenDevice: *mut c_uint);
    nvmlDeviceGetMaxPcieLinkWidth(maxLinkWidth: *mut c_uint);
    nvmlDeviceGetCurrPcieLinkGeneration(currLinkGen: *mut c_uint);
    nvmlDeviceGetCurrPcieLinkWidth(currLinkWidth: *mut c_uint);
    nvmlDeviceGetPcieThroughput(counter: nvmlPcieUtilCounter_t, value: *mut c_uint);
    nvmlDeviceGetPcieReplayCounter(value: *mut c_uint);
    nvmlDeviceGetClockInfo(type_: nvmlClockType_t, clock: *mut c_uint);
    nvmlDeviceGetGpcClkVfOffset(offset: *mut c_int);
    nvmlDeviceGetApplicationsClock(clockType: nvmlClockType_t, clockMHz: *mut c_uint);
    nvmlDeviceGetDefaultApplicationsClock(clockType: nvmlClockType_t, clockMHz: *mut c_uint);
    nvmlDeviceGetClock(clockType: nvmlClockType_t, clockId: nvmlClockId_t, clockMHz: *mut c_uint);
    nvmlDeviceGetMaxCustomerBoostClock(clockType: nvmlClockType_t, clockMHz: *mut c_uint);
    nvmlDeviceGetSupportedMemoryClocks(count: *mut c_uint, clocksMHz: *mut c_uint);
    nvmlDeviceGetSupportedGraphicsClocks(memoryClockMHz: c_uint, count: *mut c_uint, clocksMHz: *mut c_uint);
    nvmlDeviceGetAutoBoostedClocksEnabled(isEnabled: *mut nvmlEnableState_t, defaultIsEnabled: *mut nvmlEnableState_t);
    nvmlDeviceGetFanSpeed(speed: *mut c_uint);
    nvmlDeviceGetFanSpeed_v2(fan: c_uint, speed: *mut c_uint);
    nvmlDeviceGetFanSpeedRPM(fanSpeed: *mut nvmlFanSpeedInfo_t);
    nvmlDeviceGetTargetFanSpeed(fan: c_uint, targetSpeed: *mut c_uint);
    nvmlDeviceGetMinMaxFanSpeed(minSpeed: *mut c_uint, maxSpeed: *mut c_uint);
    nvmlDeviceGetFanControlPolicy_v2(fan: c_uint, policy: *mut nvmlFanControlPolicy_t);
    nvmlDeviceGetNumFans(numFans: *mut c_uint);
    nvmlDeviceGetTemperature(sensorType: nvmlTemperatureSensors_t, temp: *mut c_uint);
    nvmlDeviceGetCoolerInfo(coolerInfo: *mut nvmlCoolerInfo_t);
    nvmlDeviceGetTemperatureV(temperature: *mut nvmlTemperature_t);
    nvmlDeviceGetTemperatureThreshold(thresholdType: nvmlTemperatureThresholds_t, temp: *mut c_uint);
    nvmlDeviceGetMarginTemperature(marginTempInfo: *mut nvmlMarginTemperature_t);
    nvmlDeviceGetThermalSettings(sensorIndex: c_uint, pThermalSettings: *mut nvmlGpuThermalSettings_t);
    nvmlDeviceGetPerformanceState(pState: *mut nvmlPstates_t);
    nvmlDeviceGetCurrentClocksEventReasons(clocksEventReasons: *mut c_ulonglong);
    nvmlDeviceGetCurrentClocksThrottleReasons(clocksThrottleReasons: *mut c_ulonglong);
    nvmlDeviceGetSupportedClocksEventReasons(supportedClocksEventReasons: *mut c_ulonglong);
    nvmlDeviceGetSupportedClocksThrottleReasons(supportedClocksThrottleReasons: *mut c_ulonglong);
    nvmlDeviceGetPowerState(pState: *mut nvmlPstates_t);
    nvmlDeviceGetDynamicPstatesInfo(pDynamicPstatesInfo: *mut nvmlGpuDynamicPstatesInfo_t);
    nvmlDeviceGetMemClkVfOffset(offset: *mut c_int);
    nvmlDeviceGetMinMaxClockOfPState(type_: nvmlClockType_t, pstate: nvmlPstates_t, minClockMHz: *mut c_uint, maxClockMHz: *mut c_uint);
    nvmlDeviceGetSupportedPerformanceStates(pstates: *mut nvmlPstates_t, size: c_uint);
    nvmlDeviceGetGpcClkMinMaxVfOffset(minOffset: *mut c_int, maxOffset: *mut c_int);
    nvmlDeviceGetMemClkMinMaxVfOffset(minOffset: *mut c_int, maxOffset: *mut c_int);
    nvmlDeviceGetClockOffsets(info: *mut nvmlClockOffset_t);
    nvmlDeviceSetClockOffsets(info: *mut nvmlClockOffset_t);
    nvmlDeviceGetPerformanceModes(perfModes: *mut nvmlDevicePerfModes_t);
    nvmlDeviceGetCurrentClockFreqs(currentClockFreqs: *mut nvmlDeviceCurrentClockFreqs_t);
    nvmlDeviceGetPowerManagementMode(mode: *mut nvmlEnableState_t);
    nvmlDeviceGetPowerManagementLimit(limit: *mut c_uint);
    nvmlDeviceGetPowerManagementLimitConstraints(minLimit: *mut c_uint, maxLimit: *mut c_uint);
    nvmlDeviceGetPowerManagementDefaultLimit(defaultLimit: *mut c_uint);
    nvmlDeviceGetPowerUsage(power: *mut c_uint);
    nvmlDeviceGetPowerMizerMode_v1(powerMizerMode: *mut nvmlDevicePowerMizerModes_v1_t);
    nvmlDeviceSetPowerMizerMode_v1(powerMizerMode: *mut nvmlDevicePowerMizerModes_v1_t);
    nvmlDeviceGetTotalEnergyConsumption(energy: *mut c_ulonglong);
    nvmlDeviceGetEnforcedPowerLimit(limit: *mut c_uint);
    nvmlDeviceGetGpuOperationMode(current: *mut nvmlGpuOperationMode_t, pending: *mut nvmlGpuOperationMode_t);
    nvmlDeviceGetDramEncryptionMode(current: *mut nvmlDramEncryptionInfo_t, pending: *mut nvmlDramEncryptionInfo_t);
    nvmlDeviceSetDramEncryptionMode(dramEncryption: *const nvmlDramEncryptionInfo_t);
    nvmlDeviceGetDefaultEccMode(defaultMode: *mut nvmlEnableState_t);
    nvmlDeviceGetBoardId(boardId: *mut c_uint);
    nvmlDeviceGetTotalEccErrors(errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t, eccCounts: *mut c_ulonglong);
    nvmlDeviceGetDetailedEccErrors(errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t, eccCounts: *mut nvmlEccErrorCounts_t);
    nvmlDeviceGetMemoryErrorCounter(errorType: nvmlMemoryErrorType_t, counterType: nvmlEccCounterType_t, locationType: nvmlMemoryLocation_t, count: *mut c_ulonglong);
    nvmlDeviceGetEncoderUtilization(utilization: *mut c_uint, samplingPeriodUs: *mut c_uint);
    nvmlDeviceGetEncoderCapacity(encoderQueryType: nvmlEncoderType_t, encoderCapacity: *mut c_uint);
    nvmlDeviceGetEncoderStats(sessionCount: *mut c_uint, averageFps: *mut c_uint, averageLatency: *mut c_uint);
    nvmlDeviceGetEncoderSessions(sessionCount: *mut c_uint, sessionInfos: *mut nvmlEncoderSessionInfo_t);
    nvmlDeviceGetDecoderUtilization(utilization: *mut c_uint, samplingPeriodUs: *mut c_uint);
    nvmlDeviceGetJpgUtilization(utilization: *mut c_uint, samplingPeriodUs: *mut c_uint);
    nvmlDeviceGetOfaUtilization(utilization: *mut c_uint, samplingPeriodUs: *mut c_uint);
    nvmlDeviceGetFBCStats(fbcStats: *mut nvmlFBCStats_t);
    nvmlDeviceGetFBCSessions(sessionCount: *mut c_uint, sessionInfo: *mut nvmlFBCSessionInfo_t);
    nvmlDeviceGetDriverModel_v2(current: *mut nvmlDriverModel_t, pending: *mut nvmlDriverModel_t);
    nvmlDeviceGetVbiosVersion(version: *mut c_char, length: c_uint);
    nvmlDeviceGetBridgeChipInfo(bridgeHierarchy: *mut nvmlBridgeChipHierarchy_t);
    nvmlDeviceGetComputeRunningProcesses_v3(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t);
    nvmlDeviceGetGraphicsRunningProcesses_v3(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t);
    nvmlDeviceGetMPSComputeRunningProcesses_v3(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_t);
    nvmlDeviceGetRunningProcessDetailList(plist: *mut nvmlProcessDetailList_t);
    nvmlDeviceOnSameBoard(device2: nvmlDevice_t, onSameBoard: *mut c_int);
    nvmlDeviceGetAPIRestriction(apiType: nvmlRestrictedAPI_t, isRestricted: *mut nvmlEnableState_t);
    nvmlDeviceGetSamples(type_: nvmlSamplingType_t, lastSeenTimeStamp: c_ulonglong, sampleValType: *mut nvmlValueType_t, sampleCount: *mut c_uint, samples: *mut nvmlSample_t);
    nvmlDeviceGetBAR1MemoryInfo(bar1Memory: *mut nvmlBAR1Memory_t);
    nvmlDeviceGetViolationStatus(perfPolicyType: nvmlPerfPolicyType_t, violTime: *mut nvmlViolationTime_t);
    nvmlDeviceGetIrqNum(irqNum: *mut c_uint);
    nvmlDeviceGetNumGpuCores(numCores: *mut c_uint);
    nvmlDeviceGetPowerSource(powerSource: *mut nvmlPowerSource_t);
    nvmlDeviceGetPcieLinkMaxSpeed(maxSpeed: *mut c_uint);
    nvmlDeviceGetPcieSpeed(pcieSpeed: *mut c_uint);
    nvmlDeviceGetAdaptiveClockInfoStatus(adaptiveClockStatus: *mut c_uint);
    nvmlDeviceGetBusType(type_: *mut nvmlBusType_t);
    nvmlDeviceGetGpuFabricInfo(gpuFabricInfo: *mut nvmlGpuFabricInfo_t);
    nvmlDeviceGetGpuFabricInfoV(gpuFabricInfo: *mut nvmlGpuFabricInfoV_t);
    nvmlDeviceGetConfComputeMemSizeInfo(memInfo: *mut nvmlConfComputeMemSizeInfo_t);
    nvmlDeviceGetConfComputeProtectedMemoryUsage(memory: *mut nvmlMemory_t);
    nvmlDeviceGetConfComputeGpuCertificate(gpuCert: *mut nvmlConfComputeGpuCertificate_t);
    nvmlDeviceGetConfComputeGpuAttestationReport(gpuAtstReport: *mut nvmlConfComputeGpuAttestationReport_t);
    nvmlDeviceSetConfComputeUnprotectedMemSize(sizeKiB: c_ulonglong);
    nvmlDeviceGetGspFirmwareVersion(version: *mut c_char);
    nvmlDeviceGetGspFirmwareMode(isEnabled: *mut c_uint, defaultMode: *mut c_uint);
    nvmlDeviceGetSramEccErrorStatus(status: *mut nvmlEccSramErrorStatus_t);
    nvmlDeviceSetPowerManagementLimit_v2(powerValue: *mut nvmlPowerValue_v2_t);
    nvmlDeviceGetAccountingMode(mode: *mut nvmlEnableState_t);
    nvmlDeviceGetAccountingStats(pid: c_uint, stats: *mut nvmlAccountingStats_t);
    nvmlDeviceGetAccountingPids(count: *mut c_uint, pids: *mut c_uint);
    nvmlDeviceGetAccountingBufferSize(bufferSize: *mut c_uint);
    nvmlDeviceGetRetiredPages(cause: nvmlPageRetirementCause_t, pageCount: *mut c_uint, addresses: *mut c_ulonglong);
    nvmlDeviceGetRetiredPages_v2(cause: nvmlPageRetirementCause_t, pageCount: *mut c_uint, addresses: *mut c_ulonglong, timestamps: *mut c_ulonglong);
    nvmlDeviceGetRetiredPagesPendingStatus(isPending: *mut nvmlEnableState_t);
    nvmlDeviceGetRemappedRows(corrRows: *mut c_uint, uncRows: *mut c_uint, isPending: *mut c_uint, failureOccurred: *mut c_uint);
    nvmlDeviceGetRowRemapperHistogram(values: *mut nvmlRowRemapperHistogramValues_t);
    nvmlDeviceGetClkMonStatus(status: *mut nvmlClkMonStatus_t);
    nvmlDeviceGetProcessUtilization(utilization: *mut nvmlProcessUtilizationSample_t, processSamplesCount: *mut c_uint, lastSeenTimeStamp: c_ulonglong);
    nvmlDeviceGetProcessesUtilizationInfo(procesesUtilInfo: *mut nvmlProcessesUtilizationInfo_t);
    nvmlDeviceGetPlatformInfo(platformInfo: *mut nvmlPlatformInfo_t);
    nvmlDeviceGetPdi(pdi: *mut nvmlPdi_t);
    nvmlDeviceSetPersistenceMode(mode: nvmlEnableState_t);
    nvmlDeviceSetComputeMode(mode: nvmlComputeMode_t);
    nvmlDeviceSetEccMode(ecc: nvmlEnableState_t);
    nvmlDeviceClearEccErrorCounts(counterType: nvmlEccCounterType_t);
    nvmlDeviceSetDriverModel(driverModel: nvmlDriverModel_t, flags: c_uint);
    nvmlDeviceSetGpuLockedClocks(minGpuClockMHz: c_uint, maxGpuClockMHz: c_uint);
    nvmlDeviceResetGpuLockedClocks();
    nvmlDeviceSetMemoryLockedClocks(minMemClockMHz: c_uint, maxMemClockMHz: c_uint);
    nvmlDeviceResetMemoryLockedClocks();
    nvmlDeviceSetApplicationsClocks(memClockMHz: c_uint, graphicsClockMHz: c_uint);
    nvmlDeviceResetApplicationsClocks();
    nvmlDeviceSetAutoBoostedClocksEnabled(enabled: nvmlEnableState_t);
    nvmlDeviceSetDefaultAutoBoostedClocksEnabled(enabled: nvmlEnableState_t, flags: c_uint);
    nvmlDeviceSetDefaultFanSpeed_v2(fan: c_uint);
    nvmlDeviceSetFanControlPolicy(fan: c_uint, policy: nvmlFanControlPolicy_t);
    nvmlDeviceSetTemperatureThreshold(thresholdType: nvmlTemperatureThresholds_t, temp: *mut c_int);
    nvmlDeviceSetPowerManagementLimit(limit: c_uint);
    nvmlDeviceSetGpuOperationMode(mode: nvmlGpuOperationMode_t);
    nvmlDeviceSetAPIRestriction(apiType: nvmlRestrictedAPI_t, isRestricted: nvmlEnableState_t);
    nvmlDeviceSetFanSpeed_v2(fan: c_uint, speed: c_uint);
    nvmlDeviceSetGpcClkVfOffset(offset: c_int);
    nvmlDeviceSetMemClkVfOffset(offset: c_int);
    nvmlDeviceSetAccountingMode(mode: nvmlEnableState_t);
    nvmlDeviceClearAccountingPids();
    nvmlDeviceGetNvLinkState(link: c_uint, isActive: *mut nvmlEnableState_t);
    nvmlDeviceGetNvLinkVersion(link: c_uint, version: *mut c_uint);
    nvmlDeviceGetNvLinkCapability(link: c_uint, capability: nvmlNvLinkCapability_t, capResult: *mut c_uint);
    nvmlDeviceGetNvLinkRemotePciInfo_v2(link: c_uint, pci: *mut nvmlPciInfo_t);
    nvmlDeviceGetNvLinkErrorCounter(link: c_uint, counter: nvmlNvLinkErrorCounter_t, counterValue: *mut c_ulonglong);
    nvmlDeviceResetNvLinkErrorCounters(link: c_uint);
    nvmlDeviceSetNvLinkUtilizationControl(link: c_uint, counter: c_uint, control: *mut nvmlNvLinkUtilizationControl_t, reset: c_uint);
    nvmlDeviceGetNvLinkUtilizationControl(link: c_uint, counter: c_uint, control: *mut nvmlNvLinkUtilizationControl_t);
    nvmlDeviceGetNvLinkUtilizationCounter(link: c_uint, counter: c_uint, rxcounter: *mut c_ulonglong, txcounter: *mut c_ulonglong);
    nvmlDeviceFreezeNvLinkUtilizationCounter(link: c_uint, counter: c_uint, freeze: nvmlEnableState_t);
    nvmlDeviceResetNvLinkUtilizationCounter(link: c_uint, counter: c_uint);
    nvmlDeviceGetNvLinkRemoteDeviceType(link: c_uint, pNvLinkDeviceType: *mut nvmlIntNvLinkDeviceType_t);
    nvmlDeviceSetNvLinkDeviceLowPowerThreshold(info: *mut nvmlNvLinkPowerThres_t);
    nvmlDeviceGetNvlinkSupportedBwModes(supportedBwMode: *mut nvmlNvlinkSupportedBwModes_t);
    nvmlDeviceGetNvlinkBwMode(getBwMode: *mut nvmlNvlinkGetBwMode_t);
    nvmlDeviceSetNvlinkBwMode(setBwMode: *mut nvmlNvlinkSetBwMode_t);
    nvmlDeviceGetNvLinkInfo(info: *mut nvmlNvLinkInfo_t);
    nvmlDeviceRegisterEvents(eventTypes: c_ulonglong, set: nvmlEventSet_t);
    nvmlDeviceGetSupportedEventTypes(eventTypes: *mut c_ulonglong);
    nvmlDeviceClearFieldValues(valuesCount: c_int, values: *mut nvmlFieldValue_t);
    nvmlDeviceGetVirtualizationMode(pVirtualMode: *mut nvmlGpuVirtualizationMode_t);
    nvmlDeviceGetHostVgpuMode(pHostVgpuMode: *mut nvmlHostVgpuMode_t);
    nvmlDeviceSetVirtualizationMode(virtualMode: nvmlGpuVirtualizationMode_t);
    nvmlDeviceGetVgpuHeterogeneousMode(pHeterogeneousMode: *mut nvmlVgpuHeterogeneousMode_t);
    nvmlDeviceSetVgpuHeterogeneousMode(pHeterogeneousMode: *const nvmlVgpuHeterogeneousMode_t);
    nvmlDeviceGetVgpuTypeSupportedPlacements(vgpuTypeId: nvmlVgpuTypeId_t, pPlacementList: *mut nvmlVgpuPlacementList_t);
    nvmlDeviceGetVgpuTypeCreatablePlacements(vgpuTypeId: nvmlVgpuTypeId_t, pPlacementList: *mut nvmlVgpuPlacementList_t);
    nvmlDeviceSetVgpuCapabilities(capability: nvmlDeviceVgpuCapability_t, state: nvmlEnableState_t);
    nvmlDeviceGetGridLicensableFeatures_v4(pGridLicensableFeatures: *mut nvmlGridLicensableFeatures_t);
    nvmlDeviceGetVgpuCapabilities(capability: nvmlDeviceVgpuCapability_t, capResult: *mut c_uint);
    nvmlDeviceGetSupportedVgpus(vgpuCount: *mut c_uint, vgpuTypeIds: *mut nvmlVgpuTypeId_t);
    nvmlDeviceGetCreatableVgpus(vgpuCount: *mut c_uint, vgpuTypeIds: *mut nvmlVgpuTypeId_t);
    nvmlVgpuTypeGetMaxInstances(vgpuTypeId: nvmlVgpuTypeId_t, vgpuInstanceCount: *mut c_uint);
    nvmlDeviceGetActiveVgpus(vgpuCount: *mut c_uint, vgpuInstances: *mut nvmlVgpuInstance_t);
    nvmlDeviceGetVgpuMetadata(pgpuMetadata: *mut nvmlVgpuPgpuMetadata_t, bufferSize: *mut c_uint);
    nvmlDeviceGetPgpuMetadataString(pgpuMetadata: *mut c_char, bufferSize: *mut c_uint);
    nvmlDeviceGetVgpuSchedulerLog(pSchedulerLog: *mut nvmlVgpuSchedulerLog_t);
    nvmlDeviceGetVgpuSchedulerState(pSchedulerState: *mut nvmlVgpuSchedulerGetState_t);
    nvmlDeviceGetVgpuSchedulerCapabilities(pCapabilities: *mut nvmlVgpuSchedulerCapabilities_t);
    nvmlDeviceSetVgpuSchedulerState(pSchedulerState: *mut nvmlVgpuSchedulerSetState_t);
    nvmlDeviceGetVgpuUtilization(lastSeenTimeStamp: c_ulonglong, sampleValType: *mut nvmlValueType_t, vgpuInstanceSamplesCount: *mut c_uint, utilizationSamples: *mut nvmlVgpuInstanceUtilizationSample_t);
    nvmlDeviceGetVgpuInstancesUtilizationInfo(vgpuUtilInfo: *mut nvmlVgpuInstancesUtilizationInfo_t);
    nvmlDeviceGetVgpuProcessUtilization(lastSeenTimeStamp: c_ulonglong, vgpuProcessSamplesCount: *mut c_uint, utilizationSamples: *mut nvmlVgpuProcessUtilizationSample_t);
    nvmlDeviceGetVgpuProcessesUtilizationInfo(vgpuProcUtilInfo: *mut nvmlVgpuProcessesUtilizationInfo_t);
    nvmlDeviceReadWritePRM_v1(buffer: *mut nvmlPRMTLV_v1_t);
    nvmlDeviceSetMigMode(mode: c_uint, activationStatus: *mut nvmlReturn_t);
    nvmlDeviceGetMigMode(currentMode: *mut c_uint, pendingMode: *mut c_uint);
    nvmlDeviceGetGpuInstanceProfileInfo(profile: c_uint, info: *mut nvmlGpuInstanceProfileInfo_t);
    nvmlDeviceGetGpuInstanceProfileInfoV(profile: c_uint, info: *mut nvmlGpuInstanceProfileInfo_v2_t);
    nvmlDeviceGetGpuInstanceProfileInfoByIdV(profileId: c_uint, info: *mut nvmlGpuInstanceProfileInfo_v2_t);
    nvmlDeviceGetGpuInstancePossiblePlacements_v2(profileId: c_uint, placements: *mut nvmlGpuInstancePlacement_t, count: *mut c_uint);
    nvmlDeviceGetGpuInstanceRemainingCapacity(profileId: c_uint, count: *mut c_uint);
    nvmlDeviceCreateGpuInstance(profileId: c_uint, gpuInstance: *mut nvmlGpuInstance_t);
    nvmlDeviceCreateGpuInstanceWithPlacement(profileId: c_uint, placement: *const nvmlGpuInstancePlacement_t, gpuInstance: *mut nvmlGpuInstance_t);
    nvmlDeviceGetGpuInstances(profileId: c_uint, gpuInstances: *mut nvmlGpuInstance_t, count: *mut c_uint);
    nvmlDeviceGetGpuInstanceById(id: c_uint, gpuInstance: *mut nvmlGpuInstance_t);
    nvmlDeviceGetGpuInstanceId(id: *mut c_uint);
    nvmlDeviceGetComputeInstanceId(id: *mut c_uint);
    nvmlDeviceGetMigDeviceHandleByIndex(index: c_uint, migDevice: *mut nvmlDevice_t);
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device: *mut nvmlDevice_t);
    nvmlGpmSampleGet(gpmSample: nvmlGpmSample_t);
    nvmlGpmMigSampleGet(gpuInstanceId: c_uint, gpmSample: nvmlGpmSample_t);
    nvmlGpmQueryDeviceSupport(gpmSupport: *mut nvmlGpmSupport_t);
    nvmlGpmQueryIfStreamingEnabled(state: *mut c_uint);
    nvmlGpmSetStreamingEnabled(state: c_uint);
    nvmlDeviceGetCapabilities(caps: *mut nvmlDeviceCapabilities_t);
    nvmlDeviceWorkloadPowerProfileGetProfilesInfo(profilesInfo: *mut nvmlWorkloadPowerProfileProfilesInfo_t);
    nvmlDeviceWorkloadPowerProfileGetCurrentProfiles(currentProfiles: *mut nvmlWorkloadPowerProfileCurrentProfiles_t);
    nvmlDeviceWorkloadPowerProfileSetRequestedProfiles(requestedProfiles: *mut nvmlWorkloadPowerProfileRequestedProfiles_t);
    nvmlDeviceWorkloadPowerProfileClearRequestedProfiles(requestedProfiles: *mut nvmlWorkloadPowerProfileRequestedProfiles_t);
    nvmlDevicePowerSmoothingActivatePresetProfile(profile: *mut nvmlPowerSmoothingProfile_t);
    nvmlDevicePowerSmoothingUpdatePresetProfileParam(profile: *mut nvmlPowerSmoothingProfile_t);
    nvmlDevicePowerSmoothingSetState(state: *mut nvmlPowerSmoothingState_t);
    nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts(errorCounts: *mut nvmlEccSramUniqueUncorrectedErrorCounts_t);
    nvmlDeviceGetNvLinkRemotePciInfo(link: c_uint, pci: *mut nvmlPciInfo_t);
    nvmlDeviceGetGridLicensableFeatures(pGridLicensableFeatures: *mut nvmlGridLicensableFeatures_t);
    nvmlDeviceGetGridLicensableFeatures_v2(pGridLicensableFeatures: *mut nvmlGridLicensableFeatures_t);
    nvmlDeviceGetGridLicensableFeatures_v3(pGridLicensableFeatures: *mut nvmlGridLicensableFeatures_t);
    nvmlDeviceGetAttributes(attributes: *mut nvmlDeviceAttributes_t);
    nvmlDeviceGetComputeRunningProcesses(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t);
    nvmlDeviceGetComputeRunningProcesses_v2(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
    nvmlDeviceGetGraphicsRunningProcesses(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t);
    nvmlDeviceGetGraphicsRunningProcesses_v2(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
    nvmlDeviceGetMPSComputeRunningProcesses(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t);
    nvmlDeviceGetMPSComputeRunningProcesses_v2(infoCount: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
    nvmlDeviceGetGpuInstancePossiblePlacements(profileId: c_uint, placements: *mut nvmlGpuInstancePlacement_t, count: *mut c_uint);
    nvmlDeviceGetDriverModel(current: *mut nvmlDriverModel_t, pending: *mut nvmlDriverModel_t);
}
other {
    nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint);
    nvmlSystemGetHicVersion(hwbcCount: *mut c_uint, hwbcEntries: *mut nvmlHwbcEntry_t);
    nvmlSystemGetTopologyGpuSet(cpuNumber: c_uint, count: *mut c_uint, deviceArray: *mut nvmlDevice_t);
    nvmlSystemGetDriverBranch(branchInfo: *mut nvmlSystemDriverBranchInfo_t, length: c_uint);
    nvmlUnitGetHandleByIndex(index: c_uint, unit: *mut nvmlUnit_t);
    nvmlUnitGetUnitInfo(unit: nvmlUnit_t, info: *mut nvmlUnitInfo_t);
    nvmlUnitGetLedState(unit: nvmlUnit_t, state: *mut nvmlLedState_t);
    nvmlUnitGetPsuInfo(unit: nvmlUnit_t, psu: *mut nvmlPSUInfo_t);
    nvmlUnitGetTemperature(unit: nvmlUnit_t, type_: c_uint, temp: *mut c_uint);
    nvmlUnitGetFanSpeedInfo(unit: nvmlUnit_t, fanSpeeds: *mut nvmlUnitFanSpeeds_t);
    nvmlUnitGetDevices(unit: nvmlUnit_t, deviceCount: *mut c_uint, devices: *mut nvmlDevice_t);
    nvmlDeviceGetHandleBySerial(serial: *const c_char, device: *mut nvmlDevice_t);
    nvmlSystemGetConfComputeCapabilities(capabilities: *mut nvmlConfComputeSystemCaps_t);
    nvmlSystemGetConfComputeState(state: *mut nvmlConfComputeSystemState_t);
    nvmlSystemGetConfComputeGpusReadyState(isAcceptingWork: *mut c_uint);
    nvmlSystemGetConfComputeKeyRotationThresholdInfo(pKeyRotationThrInfo: *mut nvmlConfComputeGetKeyRotationThresholdInfo_t);
    nvmlSystemSetConfComputeGpusReadyState(isAcceptingWork: c_uint);
    nvmlSystemSetConfComputeKeyRotationThresholdInfo(pKeyRotationThrInfo: *mut nvmlConfComputeSetKeyRotationThresholdInfo_t);
    nvmlSystemGetConfComputeSettings(settings: *mut nvmlSystemConfComputeSettings_t);
    nvmlUnitSetLedState(unit: nvmlUnit_t, color: nvmlLedColor_t);
    nvmlSystemSetNvlinkBwMode(nvlinkBwMode: c_uint);
    nvmlSystemGetNvlinkBwMode(nvlinkBwMode: *mut c_uint);
    nvmlEventSetCreate(set: *mut nvmlEventSet_t);
    nvmlEventSetWait_v2(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeoutms: c_uint);
    nvmlEventSetFree(set: nvmlEventSet_t);
    nvmlSystemEventSetCreate(request: *mut nvmlSystemEventSetCreateRequest_t);
    nvmlSystemEventSetFree(request: *mut nvmlSystemEventSetFreeRequest_t);
    nvmlSystemRegisterEvents(request: *mut nvmlSystemRegisterEventRequest_t);
    nvmlSystemEventSetWait(request: *mut nvmlSystemEventSetWaitRequest_t);
    nvmlDeviceModifyDrainState(pciInfo: *mut nvmlPciInfo_t, newState: nvmlEnableState_t);
    nvmlDeviceQueryDrainState(pciInfo: *mut nvmlPciInfo_t, currentState: *mut nvmlEnableState_t);
    nvmlDeviceRemoveGpu_v2(pciInfo: *mut nvmlPciInfo_t, gpuState: nvmlDetachGpuState_t, linkState: nvmlPcieLinkState_t);
    nvmlDeviceDiscoverGpus(pciInfo: *mut nvmlPciInfo_t);
    nvmlVgpuInstanceGetPlacementId(vgpuInstance: nvmlVgpuInstance_t, pPlacement: *mut nvmlVgpuPlacementId_t);
    nvmlVgpuTypeGetGspHeapSize(vgpuTypeId: nvmlVgpuTypeId_t, gspHeapSize: *mut c_ulonglong);
    nvmlVgpuTypeGetFbReservation(vgpuTypeId: nvmlVgpuTypeId_t, fbReservation: *mut c_ulonglong);
    nvmlVgpuInstanceGetRuntimeStateSize(vgpuInstance: nvmlVgpuInstance_t, pState: *mut nvmlVgpuRuntimeState_t);
    nvmlGetVgpuDriverCapabilities(capability: nvmlVgpuDriverCapability_t, capResult: *mut c_uint);
    nvmlVgpuTypeGetClass(vgpuTypeId: nvmlVgpuTypeId_t, vgpuTypeClass: *mut c_char, size: *mut c_uint);
    nvmlVgpuTypeGetName(vgpuTypeId: nvmlVgpuTypeId_t, vgpuTypeName: *mut c_char, size: *mut c_uint);
    nvmlVgpuTypeGetGpuInstanceProfileId(vgpuTypeId: nvmlVgpuTypeId_t, gpuInstanceProfileId: *mut c_uint);
    nvmlVgpuTypeGetDeviceID(vgpuTypeId: nvmlVgpuTypeId_t, deviceID: *mut c_ulonglong, subsystemID: *mut c_ulonglong);
    nvmlVgpuTypeGetFramebufferSize(vgpuTypeId: nvmlVgpuTypeId_t, fbSize: *mut c_ulonglong);
    nvmlVgpuTypeGetNumDisplayHeads(vgpuTypeId: nvmlVgpuTypeId_t, numDisplayHeads: *mut c_uint);
    nvmlVgpuTypeGetResolution(vgpuTypeId: nvmlVgpuTypeId_t, displayIndex: c_uint, xdim: *mut c_uint, ydim: *mut c_uint);
    nvmlVgpuTypeGetLicense(vgpuTypeId: nvmlVgpuTypeId_t, vgpuTypeLicenseString: *mut c_char, size: c_uint);
    nvmlVgpuTypeGetFrameRateLimit(vgpuTypeId: nvmlVgpuTypeId_t, frameRateLimit: *mut c_uint);
    nvmlVgpuTypeGetMaxInstancesPerVm(vgpuTypeId: nvmlVgpuTypeId_t, vgpuInstanceCountPerVm: *mut c_uint);
    nvmlVgpuTypeGetBAR1Info(vgpuTypeId: nvmlVgpuTypeId_t, bar1Info: *mut nvmlVgpuTypeBar1Info_t);
    nvmlVgpuInstanceGetVmID(vgpuInstance: nvmlVgpuInstance_t, vmId: *mut c_char, size: c_uint, vmIdType: *mut nvmlVgpuVmIdType_t);
    nvmlVgpuInstanceGetUUID(vgpuInstance: nvmlVgpuInstance_t, uuid: *mut c_char, size: c_uint);
    nvmlVgpuInstanceGetVmDriverVersion(vgpuInstance: nvmlVgpuInstance_t, version: *mut c_char, length: c_uint);
    nvmlVgpuInstanceGetFbUsage(vgpuInstance: nvmlVgpuInstance_t, fbUsage: *mut c_ulonglong);
    nvmlVgpuInstanceGetLicenseStatus(vgpuInstance: nvmlVgpuInstance_t, licensed: *mut c_uint);
    nvmlVgpuInstanceGetType(vgpuInstance: nvmlVgpuInstance_t, vgpuTypeId: *mut nvmlVgpuTypeId_t);
    nvmlVgpuInstanceGetFrameRateLimit(vgpuInstance: nvmlVgpuInstance_t, frameRateLimit: *mut c_uint);
    nvmlVgpuInstanceGetEccMode(vgpuInstance: nvmlVgpuInstance_t, eccMode: *mut nvmlEnableState_t);
    nvmlVgpuInstanceGetEncoderCapacity(vgpuInstance: nvmlVgpuInstance_t, encoderCapacity: *mut c_uint);
    nvmlVgpuInstanceSetEncoderCapacity(vgpuInstance: nvmlVgpuInstance_t, encoderCapacity: c_uint);
    nvmlVgpuInstanceGetEncoderStats(vgpuInstance: nvmlVgpuInstance_t, sessionCount: *mut c_uint, averageFps: *mut c_uint, averageLatency: *mut c_uint);
    nvmlVgpuInstanceGetEncoderSessions(vgpuInstance: nvmlVgpuInstance_t, sessionCount: *mut c_uint, sessionInfo: *mut nvmlEncoderSessionInfo_t);
    nvmlVgpuInstanceGetFBCStats(vgpuInstance: nvmlVgpuInstance_t, fbcStats: *mut nvmlFBCStats_t);
    nvmlVgpuInstanceGetFBCSessions(vgpuInstance: nvmlVgpuInstance_t, sessionCount: *mut c_uint, sessionInfo: *mut nvmlFBCSessionInfo_t);
    nvmlVgpuInstanceGetGpuInstanceId(vgpuInstance: nvmlVgpuInstance_t, gpuInstanceId: *mut c_uint);
    nvmlVgpuInstanceGetGpuPciId(vgpuInstance: nvmlVgpuInstance_t, vgpuPciId: *mut c_char, length: *mut c_uint);
    nvmlVgpuTypeGetCapabilities(vgpuTypeId: nvmlVgpuTypeId_t, capability: nvmlVgpuCapability_t, capResult: *mut c_uint);
    nvmlVgpuInstanceGetMdevUUID(vgpuInstance: nvmlVgpuInstance_t, mdevUuid: *mut c_char, size: c_uint);
    nvmlGpuInstanceGetCreatableVgpus(gpuInstance: nvmlGpuInstance_t, pVgpus: *mut nvmlVgpuTypeIdInfo_t);
    nvmlVgpuTypeGetMaxInstancesPerGpuInstance(pMaxInstance: *mut nvmlVgpuTypeMaxInstance_t);
    nvmlGpuInstanceGetActiveVgpus(gpuInstance: nvmlGpuInstance_t, pVgpuInstanceInfo: *mut nvmlActiveVgpuInstanceInfo_t);
    nvmlGpuInstanceSetVgpuSchedulerState(gpuInstance: nvmlGpuInstance_t, pScheduler: *mut nvmlVgpuSchedulerState_t);
    nvmlGpuInstanceGetVgpuSchedulerState(gpuInstance: nvmlGpuInstance_t, pSchedulerStateInfo: *mut nvmlVgpuSchedulerStateInfo_t);
    nvmlGpuInstanceGetVgpuSchedulerLog(gpuInstance: nvmlGpuInstance_t, pSchedulerLogInfo: *mut nvmlVgpuSchedulerLogInfo_t);
    nvmlGpuInstanceGetVgpuTypeCreatablePlacements(gpuInstance: nvmlGpuInstance_t, pCreatablePlacementInfo: *mut nvmlVgpuCreatablePlacementInfo_t);
    nvmlGpuInstanceGetVgpuHeterogeneousMode(gpuInstance: nvmlGpuInstance_t, pHeterogeneousMode: *mut nvmlVgpuHeterogeneousMode_t);
    nvmlGpuInstanceSetVgpuHeterogeneousMode(gpuInstance: nvmlGpuInstance_t, pHeterogeneousMode: *const nvmlVgpuHeterogeneousMode_t);
    nvmlVgpuInstanceGetMetadata(vgpuInstance: nvmlVgpuInstance_t, vgpuMetadata: *mut nvmlVgpuMetadata_t, bufferSize: *mut c_uint);
    nvmlGetVgpuCompatibility(vgpuMetadata: *mut nvmlVgpuMetadata_t, pgpuMetadata: *mut nvmlVgpuPgpuMetadata_t, compatibilityInfo: *mut nvmlVgpuPgpuCompatibility_t);
    nvmlGetVgpuVersion(supported: *mut nvmlVgpuVersion_t, current: *mut nvmlVgpuVersion_t);
    nvmlSetVgpuVersion(vgpuVersion: *mut nvmlVgpuVersion_t);
    nvmlVgpuInstanceGetAccountingMode(vgpuInstance: nvmlVgpuInstance_t, mode: *mut nvmlEnableState_t);
    nvmlVgpuInstanceGetAccountingPids(vgpuInstance: nvmlVgpuInstance_t, count: *mut c_uint, pids: *mut c_uint);
    nvmlVgpuInstanceGetAccountingStats(vgpuInstance: nvmlVgpuInstance_t, pid: c_uint, stats: *mut nvmlAccountingStats_t);
    nvmlVgpuInstanceClearAccountingPids(vgpuInstance: nvmlVgpuInstance_t);
    nvmlVgpuInstanceGetLicenseInfo_v2(vgpuInstance: nvmlVgpuInstance_t, licenseInfo: *mut nvmlVgpuLicenseInfo_t);
    nvmlGetExcludedDeviceInfoByIndex(index: c_uint, info: *mut nvmlExcludedDeviceInfo_t);
    nvmlGpuInstanceDestroy(gpuInstance: nvmlGpuInstance_t);
    nvmlGpuInstanceGetInfo(gpuInstance: nvmlGpuInstance_t, info: *mut nvmlGpuInstanceInfo_t);
    nvmlGpuInstanceGetComputeInstanceProfileInfo(gpuInstance: nvmlGpuInstance_t, profile: c_uint, engProfile: c_uint, info: *mut nvmlComputeInstanceProfileInfo_t);
    nvmlGpuInstanceGetComputeInstanceProfileInfoV(gpuInstance: nvmlGpuInstance_t, profile: c_uint, engProfile: c_uint, info: *mut nvmlComputeInstanceProfileInfo_v2_t);
    nvmlGpuInstanceGetComputeInstanceRemainingCapacity(gpuInstance: nvmlGpuInstance_t, profileId: c_uint, count: *mut c_uint);
    nvmlGpuInstanceGetComputeInstancePossiblePlacements(gpuInstance: nvmlGpuInstance_t, profileId: c_uint, placements: *mut nvmlComputeInstancePlacement_t, count: *mut c_uint);
    nvmlGpuInstanceCreateComputeInstance(gpuInstance: nvmlGpuInstance_t, profileId: c_uint, computeInstance: *mut nvmlComputeInstance_t);
    nvmlGpuInstanceCreateComputeInstanceWithPlacement(gpuInstance: nvmlGpuInstance_t, profileId: c_uint, placement: *const nvmlComputeInstancePlacement_t, computeInstance: *mut nvmlComputeInstance_t);
    nvmlComputeInstanceDestroy(computeInstance: nvmlComputeInstance_t);
    nvmlGpuInstanceGetComputeInstances(gpuInstance: nvmlGpuInstance_t, profileId: c_uint, computeInstances: *mut nvmlComputeInstance_t, count: *mut c_uint);
    nvmlGpuInstanceGetComputeInstanceById(gpuInstance: nvmlGpuInstance_t, id: c_uint, computeInstance: *mut nvmlComputeInstance_t);
    nvmlComputeInstanceGetInfo_v2(computeInstance: nvmlComputeInstance_t, info: *mut nvmlComputeInstanceInfo_t);
    nvmlGpmMetricsGet(metricsGet: *mut nvmlGpmMetricsGet_t);
    nvmlGpmSampleFree(gpmSample: nvmlGpmSample_t);
    nvmlGpmSampleAlloc(gpmSample: *mut nvmlGpmSample_t);
    nvmlDeviceRemoveGpu(pciInfo: *mut nvmlPciInfo_t);
    nvmlEventSetWait(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeoutms: c_uint);
    nvmlComputeInstanceGetInfo(computeInstance: nvmlComputeInstance_t, info: *mut nvmlComputeInstanceInfo_t);
    nvmlVgpuInstanceGetLicenseInfo(vgpuInstance: nvmlVgpuInstance_t, licenseInfo: *mut nvmlVgpuLicenseInfo_t);
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_function_is_declared_once_and_those_with_an_answer_are_described() {
        let names: HashSet<_> = Function::ALL.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), Function::ALL.len());
        for function in Function::ALL {
            assert!(function.name.starts_with("nvml"), "{}", function.name);
            let described = !function.doc.trim().is_empty();
            assert_eq!(
                described,
                function.answered == Answered::Yes,
                "{}",
                function.name
            );
            // A bar inside a cell would break the table.
            assert!(!function.doc.contains('|'), "{}", function.name);
        }
    }

    #[test]
    fn a_panic_does_not_leave_the_library() {
        assert_eq!(guard(|| panic!("on purpose")), Failure::UNKNOWN.0);
        assert_eq!(guard(|| Err(Failure::NOT_FOUND)), Failure::NOT_FOUND.0);
        assert_eq!(guard(|| Ok(())), 0);
    }
}
