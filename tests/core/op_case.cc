#include "tests/core/op_case.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shardit {

OpCase Timed(OpCase op) {
  op.timed = true;
  return op;
}

OpCase Large(OpCase op) {
  op.large = true;
  return op;
}

std::string CaseName(const char* op, std::initializer_list<int64_t> sizes, const char* variant) {
  return absl::StrCat(op, "_", absl::StrJoin(sizes, "x"), variant[0] == '\0' ? "" : "_", variant);
}

std::ostream& operator<<(std::ostream& out, const OpCase& op_case) { return out << op_case.name; }
std::string OpCaseName(const ::testing::TestParamInfo<OpCase>& info) { return info.param.name; }

bool BenchRequested() {
  const std::vector<std::string> arguments = ::testing::internal::GetArgvs();
  return std::find(arguments.begin(), arguments.end(), "--bench") != arguments.end();
}

double ToBf16(double value) { return double{BFloat16::FromFloat(static_cast<float>(value)).ToFloat()}; }

Array ToBf16(Array array) {
  for (double& value : array.values) value = ToBf16(value);
  return array;
}

}  // namespace shardit
