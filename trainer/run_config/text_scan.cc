#include "trainer/run_config/text_scan.h"

#include <tuple>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/text_format.h"
#include "trainer/run_config/field_tree.h"

namespace shardit {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::io::ArrayInputStream;
using google::protobuf::io::ErrorCollector;
using google::protobuf::io::Tokenizer;

// Where a field's name stands in the text (from 0), to name the field when the parser complains about its value.
struct FieldPlace {
  int line = 0;
  int column = 0;
  std::string path;
  const FieldDescriptor* field = nullptr;
};

class FirstError : public ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (!message_.empty()) return;
    line_ = line;
    column_ = column;
    message_ = message;
  }
  int line() const { return line_; }
  int column() const { return column_; }
  const std::string& message() const { return message_; }

 private:
  int line_ = 0, column_ = 0;
  std::string message_;
};

std::string At(const std::string& name, int line, int column) {
  return absl::StrCat(name, ":", line + 1, ":", column + 1, ": ");
}

// Walks the tokens with a stack of open brackets; values are skipped. What is no text format at all is left to the
// parser.
class Scanner {
 public:
  Scanner(const std::string& text, const std::string& name, const Descriptor& root)
      : name_(name), root_(root), input_(text.data(), static_cast<int>(text.size())), tokenizer_(&input_, &ignored_) {
    tokenizer_.set_comment_style(Tokenizer::SH_COMMENT_STYLE);
    tokenizer_.set_allow_f_after_float(true);
    tokenizer_.set_require_space_after_number(false);
    open_.push_back({&root, ""});
  }

  absl::Status Run() {
    while (tokenizer_.Next()) {
      const Tokenizer::Token& token = tokenizer_.current();
      if (token.type == Tokenizer::TYPE_SYMBOL) {
        RETURN_IF_ERROR(Symbol(token));
      } else if (token.type == Tokenizer::TYPE_IDENTIFIER && !in_value_) {
        RETURN_IF_ERROR(FieldName(token));
      } else {
        in_value_ = false;
      }
    }
    return absl::OkStatus();
  }

  const std::vector<FieldPlace>& places() const { return places_; }

 private:
  struct Level {
    const Descriptor* message = nullptr;  // null: fields are not looked up here
    std::string path;
  };

  absl::Status Symbol(const Tokenizer::Token& token) {
    const char symbol = token.text[0];
    if (symbol == '{' || symbol == '<' || symbol == '[') {
      if (static_cast<int>(open_.size()) > kMaxConfigDepth) {
        return absl::InvalidArgumentError(
            absl::StrCat(At(name_, token.line, token.column), "nested deeper than ", kMaxConfigDepth, " levels"));
      }
      const bool is_section = symbol != '[' && field_ != nullptr && field_->message_type() != nullptr;
      open_.push_back(is_section ? Level{field_->message_type(), places_.back().path} : Level{});
      in_value_ = false;
    } else if (symbol == '}' || symbol == '>' || symbol == ']') {
      if (open_.size() > 1) open_.pop_back();
      in_value_ = false;
    } else if (symbol == ':') {
      in_value_ = true;
    }
    return absl::OkStatus();
  }

  absl::Status FieldName(const Tokenizer::Token& token) {
    const Level& level = open_.back();
    if (level.message == nullptr) return absl::OkStatus();
    field_ = level.message->FindFieldByName(token.text);
    const std::string path = level.path.empty() ? token.text : absl::StrCat(level.path, ".", token.text);
    if (field_ == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(At(name_, token.line, token.column), "unknown field ",
                                                     PrintableName(path), "; ",
                                                     SuggestField(root_, *level.message, level.path, token.text)));
    }
    places_.push_back({token.line, token.column, path, field_});
    return absl::OkStatus();
  }

  const std::string& name_;
  const Descriptor& root_;
  ArrayInputStream input_;
  FirstError ignored_;
  Tokenizer tokenizer_;
  std::vector<Level> open_;
  std::vector<FieldPlace> places_;
  const FieldDescriptor* field_ = nullptr;
  bool in_value_ = false;
};

}  // namespace

absl::Status ParseConfigText(const std::string& text, const std::string& name, google::protobuf::Message* message) {
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": expected at most ", kMaxConfigBytes, " bytes, got ", text.size()));
  }
  Scanner scanner(text, name, *message->GetDescriptor());
  RETURN_IF_ERROR(scanner.Run());

  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.SetRecursionLimit(kMaxConfigDepth);
  ArrayInputStream input(text.data(), static_cast<int>(text.size()));
  if (parser.Parse(&input, message)) return absl::OkStatus();

  // The parser stands at the value, or just behind it: the field is the last one that begins before.
  const FieldPlace* blamed = nullptr;
  for (const FieldPlace& place : scanner.places()) {
    if (std::tie(place.line, place.column) < std::make_tuple(error.line(), error.column())) blamed = &place;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      At(name, error.line(), error.column()),
      blamed == nullptr ? "" : absl::StrCat(blamed->path, ": expected ", DescribeType(*blamed->field), "; "),
      absl::CHexEscape(error.message().substr(0, 200))));
}

std::string PrintConfigText(const google::protobuf::Message& message) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(message, &text);
  return text;
}

}  // namespace shardit
