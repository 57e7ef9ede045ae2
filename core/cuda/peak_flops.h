// What a GPU could do at most, by the vendor's figures, for model flops utilisation (MFU).
#pragma once

#include <optional>
#include <string_view>

namespace shardit::cuda {

// Floating-point operations a second of dense bf16 matrix products with fp32 accumulation, from the vendor's data
// sheets, for the name that the driver gives the device (DeviceInfo::name: it tells form factors apart, whose clocks
// differ). Nothing for a device that is not in the table, parts of a device (MIG) among them: never an estimate.
std::optional<double> PeakBf16Flops(std::string_view device_name);

}  // namespace shardit::cuda
