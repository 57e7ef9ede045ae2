#include "trainer/run_config/field_tree.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "google/protobuf/text_format.h"

namespace shardit {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

void CollectFields(const Descriptor& message, const std::string& prefix, config::ResumeRule inherited,
                   std::vector<ConfigField>* out) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor* field = message.field(i);
    const std::string path = prefix.empty() ? std::string(field->name()) : absl::StrCat(prefix, ".", field->name());
    const config::ResumeRule rule =
        field->options().HasExtension(config::resume) ? field->options().GetExtension(config::resume) : inherited;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      CollectFields(*field->message_type(), path, rule, out);
    } else {
      out->push_back({path, field, rule});
    }
  }
}

// Levenshtein distance; a name longer than any field's could be is not worth the quadratic time.
int EditDistance(const std::string& a, const std::string& b) {
  constexpr size_t kLongest = 64;
  if (a.size() > kLongest) return static_cast<int>(a.size());
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

// Calls visit(path, parent path, name) for every field of the tree, sections included.
template <class Visit>
void VisitNames(const Descriptor& message, const std::string& prefix, const Visit& visit) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor* field = message.field(i);
    const std::string path = prefix.empty() ? std::string(field->name()) : absl::StrCat(prefix, ".", field->name());
    visit(path, prefix, std::string(field->name()));
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) VisitNames(*field->message_type(), path, visit);
  }
}

// The message that holds the field, or null where a section on the way is unset.
const Message* Holder(const Message& root, const std::string& path) {
  const Message* message = &root;
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(parts[i]);
    if (!message->GetReflection()->HasField(*message, field)) return nullptr;
    message = &message->GetReflection()->GetMessage(*message, field);
  }
  return message;
}

template <class Number>
std::string Shortest(Number value) {
  char text[64];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

std::string NumberText(double value, const FieldDescriptor& field) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64 && std::fabs(value) < 9e15) {
    return absl::StrCat(static_cast<int64_t>(value));
  }
  return Shortest(value);
}

absl::Status WrongType(const std::string& path, const FieldDescriptor& field, const std::string& value) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": expected ", DescribeType(field), ", got \"", PrintableName(value), "\""));
}

absl::Status SetScalar(const std::string& path, const std::string& value, const FieldDescriptor& field,
                       Message* message) {
  const Reflection& reflection = *message->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t number;
      if (!absl::SimpleAtoi(value, &number)) return WrongType(path, field, value);
      reflection.SetInt64(message, &field, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double number;
      if (!absl::SimpleAtod(value, &number)) return WrongType(path, field, value);
      reflection.SetDouble(message, &field, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_FLOAT: {
      float number;
      if (!absl::SimpleAtof(value, &number)) return WrongType(path, field, value);
      reflection.SetFloat(message, &field, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      if (value != "true" && value != "false") return WrongType(path, field, value);
      reflection.SetBool(message, &field, value == "true");
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* number = field.enum_type()->FindValueByName(value);
      if (number == nullptr) return WrongType(path, field, value);
      reflection.SetEnum(message, &field, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING:
      reflection.SetString(message, &field, value);
      return absl::OkStatus();
    default:
      CHECK(false) << "[run_config] " << path << ": a type that configurations do not use";
      return absl::OkStatus();
  }
}

// A ranged value as it is written.
std::string ValueText(const Message& message, const FieldDescriptor& field, int index) {
  std::string text;
  google::protobuf::TextFormat::PrintFieldValueToString(message, &field, field.is_repeated() ? index : -1, &text);
  return text;
}

// The number whose range is checked: the value, or the length of a string. `index` is the element of a list.
std::optional<double> RangedNumber(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool list = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return static_cast<double>(list ? reflection.GetRepeatedInt64(message, &field, index)
                                      : reflection.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return list ? reflection.GetRepeatedDouble(message, &field, index) : reflection.GetDouble(message, &field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return list ? reflection.GetRepeatedFloat(message, &field, index) : reflection.GetFloat(message, &field);
    case FieldDescriptor::CPPTYPE_STRING:
      return static_cast<double>(
          (list ? reflection.GetRepeatedString(message, &field, index) : reflection.GetString(message, &field)).size());
    default:
      return std::nullopt;
  }
}

bool InRange(double value, const config::Range& range) {
  // Written so that NaN is outside.
  const bool above = !range.has_min() || (range.open_min() ? value > range.min() : value >= range.min());
  const bool below = !range.has_max() || (range.open_max() ? value < range.max() : value <= range.max());
  return above && below;
}

std::string RangeText(const config::Range& range, const FieldDescriptor& field) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    return absl::StrCat("at most ", static_cast<int64_t>(range.max()), " bytes");
  }
  return absl::StrCat(range.open_min() ? "above " : "", NumberText(range.min(), field), " to ",
                      range.open_max() ? "below " : "", NumberText(range.max(), field));
}

absl::Status CheckRangesBelow(const Message& message, const std::string& prefix);

// One value of a field: the field itself, or an element of a list.
absl::Status CheckValue(const Message& message, const FieldDescriptor& field, int index, const std::string& path) {
  const Reflection& reflection = *message.GetReflection();
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    return CheckRangesBelow(field.is_repeated() ? reflection.GetRepeatedMessage(message, &field, index)
                                                : reflection.GetMessage(message, &field),
                            path);
  }
  if (!field.options().HasExtension(config::range)) return absl::OkStatus();
  const config::Range& range = field.options().GetExtension(config::range);
  const std::optional<double> number = RangedNumber(message, field, index);
  if (!number.has_value() || InRange(*number, range)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": expected ", RangeText(range, field), ", got ",
                                                 PrintableName(ValueText(message, field, index))));
}

absl::Status CheckRangesBelow(const Message& message, const std::string& prefix) {
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const std::string path = prefix.empty() ? std::string(field.name()) : absl::StrCat(prefix, ".", field.name());
    if (field.is_repeated()) {
      for (int k = 0; k < reflection.FieldSize(message, &field); ++k) {
        RETURN_IF_ERROR(CheckValue(message, field, k, absl::StrCat(path, "[", k, "]")));
      }
    } else if (reflection.HasField(message, &field)) {
      RETURN_IF_ERROR(CheckValue(message, field, 0, path));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string PrintableName(const std::string& name) {
  constexpr size_t kLongest = 80;
  const bool cut = name.size() > kLongest;
  return absl::StrCat(absl::CHexEscape(std::string(name.substr(0, kLongest))), cut ? "..." : "");
}

std::vector<ConfigField> ConfigFields(const Descriptor& root) {
  std::vector<ConfigField> fields;
  CollectFields(root, "", config::FROZEN, &fields);
  return fields;
}

std::string DescribeType(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return "an integer";
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT:
      return "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_STRING:
      return "a quoted string";
    case FieldDescriptor::CPPTYPE_ENUM: {
      std::vector<std::string> names;
      for (int i = 0; i < field.enum_type()->value_count(); ++i) names.push_back(field.enum_type()->value(i)->name());
      return absl::StrCat("one of ", absl::StrJoin(names, ", "));
    }
    default:
      return absl::StrCat("a section, ", field.name(), " { ... }");
  }
}

std::string SuggestField(const Descriptor& root, const Descriptor& message, const std::string& prefix,
                         const std::string& name) {
  std::string best;
  int best_score = 1 << 30, best_distance = 1 << 30;
  VisitNames(root, "", [&](const std::string& path, const std::string& parent, const std::string& candidate) {
    const int distance = EditDistance(name, candidate);
    const int score = 2 * distance + (parent == prefix ? 0 : 1);
    if (score < best_score) {
      best = path;
      best_score = score;
      best_distance = distance;
    }
  });
  if (best_distance <= 1 || 2 * best_distance < static_cast<int>(name.size()))
    return absl::StrCat("did you mean ", best, "?");
  std::vector<std::string> names;
  for (int i = 0; i < message.field_count(); ++i) names.push_back(message.field(i)->name());
  return absl::StrCat("expected one of ", absl::StrJoin(names, ", "));
}

std::string FieldText(const Message& root, const ConfigField& field) {
  const Message* holder = Holder(root, field.path);
  const FieldDescriptor* f = field.field;
  if (holder == nullptr)
    holder = google::protobuf::MessageFactory::generated_factory()->GetPrototype(f->containing_type());
  const Reflection& reflection = *holder->GetReflection();
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection.GetInt64(*holder, f));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Shortest(reflection.GetDouble(*holder, f));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Shortest(reflection.GetFloat(*holder, f));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(*holder, f) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection.GetEnum(*holder, f)->name();
    default:
      return reflection.GetString(*holder, f);
  }
}

bool IsSet(const Message& root, const ConfigField& field) {
  const Message* holder = Holder(root, field.path);
  return holder != nullptr && holder->GetReflection()->HasField(*holder, field.field);
}

absl::Status SetField(const std::string& assignment, Message* root) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected section.field=value, got \"", PrintableName(assignment), "\""));
  }
  const std::string path(assignment.substr(0, equals));
  const std::string value(assignment.substr(equals + 1));
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  Message* message = root;
  std::string prefix;
  for (size_t i = 0;; ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(parts[i]);
    if (field == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown field ", PrintableName(path), "; ",
                       SuggestField(*root->GetDescriptor(), *message->GetDescriptor(), prefix, parts[i])));
    }
    if (field->is_repeated()) {
      return absl::InvalidArgumentError(
          absl::StrCat(PrintableName(path), ": ", parts[i], " is a list; give it in the file"));
    }
    const bool is_section = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (is_section == (i + 1 == parts.size())) {
      return absl::InvalidArgumentError(absl::StrCat(PrintableName(path), ": ", parts[i], " is ", DescribeType(*field),
                                                     "; expected section.field=value"));
    }
    if (!is_section) return SetScalar(path, value, *field, message);
    message = message->GetReflection()->MutableMessage(message, field);
    prefix = prefix.empty() ? parts[i] : absl::StrCat(prefix, ".", parts[i]);
  }
}

absl::Status CheckRanges(const Message& root) { return CheckRangesBelow(root, ""); }

void FillDefaults(Message* message) {
  const Reflection& reflection = *message->GetReflection();
  const Message& prototype =
      *google::protobuf::MessageFactory::generated_factory()->GetPrototype(message->GetDescriptor());
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      FillDefaults(reflection.MutableMessage(message, field));
    } else if (!reflection.HasField(*message, field) && field->has_default_value()) {
      const ConfigField leaf = {field->name(), field, config::FROZEN};
      CHECK(SetScalar(field->name(), FieldText(prototype, leaf), *field, message).ok());
    }
  }
}

}  // namespace shardit
