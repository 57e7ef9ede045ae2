#include "data/formats/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

using Kind = PickleValue::Kind;
using Ref = PickleValue::Ref;

constexpr size_t kMaxGlobalBytes = 256;

// Operations by their byte, in the order of Lib/pickletools.py. What protocol 2 and later do not write is missing.
enum class Op : uint8_t {
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kLong1 = 0x8a,
  kShortBinString = 'U',
  kBinString = 'T',
  kShortBinBytes = 'C',
  kBinBytes = 'B',
  kNone = 'N',
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kShortBinUnicode = 0x8c,
  kBinUnicode = 'X',
  kBinFloat = 'G',
  kEmptyList = ']',
  kAppend = 'a',
  kAppends = 'e',
  kEmptyTuple = ')',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kEmptyDict = '}',
  kSetItem = 's',
  kSetItems = 'u',
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kPop = '0',
  kMark = '(',
  kPopMark = '1',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kMemoize = 0x94,
  kGlobal = 'c',
  kStackGlobal = 0x93,
  kReduce = 'R',
  kBuild = 'b',
  kNewObj = 0x81,
  kProto = 0x80,
  kStop = '.',
  kFrame = 0x95,
  kBinPersId = 'Q',
};

class Machine {
 public:
  explicit Machine(absl::string_view bytes) : bytes_(bytes) {}

  absl::StatusOr<Pickle> Run() {
    while (true) {
      op_begin_ = at_;
      uint8_t op = 0;
      RETURN_IF_ERROR(Number(&op));
      if (static_cast<Op>(op) == Op::kStop) break;
      RETURN_IF_ERROR(Step(static_cast<Op>(op)));
    }
    ASSIGN_OR_RETURN(pickle_.root, PopOne());
    pickle_.bytes = at_;
    return std::move(pickle_);
  }

 private:
  // One operation. Groups of operations have a function each, which passes on what is not in it.
  absl::Status Step(Op op) {
    switch (op) {
      case Op::kProto:
        return Protocol();
      case Op::kFrame:
        return Skip(8);
      case Op::kMark:
        marks_.push_back(stack_.size());
        return absl::OkStatus();
      case Op::kPop:
        return PopOne().status();
      case Op::kPopMark:
        return PopToMark().status();
      case Op::kBinGet:
        return Get<uint8_t>();
      case Op::kLongBinGet:
        return Get<uint32_t>();
      case Op::kBinPut:
        return Put<uint8_t>();
      case Op::kLongBinPut:
        return Put<uint32_t>();
      case Op::kMemoize:
        return PutAs(static_cast<uint32_t>(memo_.size()));
      default:
        return Scalar(op);
    }
  }

  absl::Status Scalar(Op op) {
    switch (op) {
      case Op::kNone:
        return Push({.kind = Kind::kNone});
      case Op::kNewTrue:
      case Op::kNewFalse:
        return Push({.kind = Kind::kBool, .integer = op == Op::kNewTrue});
      case Op::kBinInt:
        return Integer<int32_t>();
      case Op::kBinInt1:
        return Integer<uint8_t>();
      case Op::kBinInt2:
        return Integer<uint16_t>();
      case Op::kLong1:
        return Long();
      case Op::kBinFloat:
        return Float();
      case Op::kShortBinString:
      case Op::kShortBinBytes:
      case Op::kShortBinUnicode:
        return Text<uint8_t>();
      case Op::kBinString:
      case Op::kBinBytes:
      case Op::kBinUnicode:
        return Text<uint32_t>();
      case Op::kGlobal:
        return Global();
      default:
        return Container(op);
    }
  }

  absl::Status Container(Op op) {
    switch (op) {
      case Op::kEmptyList:
      case Op::kEmptySet:
        return Push({.kind = Kind::kList});
      case Op::kEmptyDict:
        return Push({.kind = Kind::kDict});
      case Op::kEmptyTuple:
        return Push({.kind = Kind::kTuple});
      case Op::kTuple1:
      case Op::kTuple2:
      case Op::kTuple3:
        return FixedRecord(Kind::kTuple, static_cast<size_t>(op) - static_cast<size_t>(Op::kTuple1) + 1);
      case Op::kTuple: {
        ASSIGN_OR_RETURN(std::vector<Ref> items, PopToMark());
        return Push({.kind = Kind::kTuple, .items = std::move(items)});
      }
      case Op::kAppend:
        return Extend(1);
      case Op::kSetItem:
        return Extend(2);
      case Op::kAppends:
      case Op::kAddItems:
      case Op::kSetItems: {
        if (marks_.empty()) return Bad("finds no mark");
        const size_t count = stack_.size() - marks_.back();
        marks_.pop_back();
        return Extend(count);
      }
      default:
        return Inert(op);
    }
  }

  // What would import, call or construct.
  absl::Status Inert(Op op) {
    switch (op) {
      case Op::kStackGlobal: {
        ASSIGN_OR_RETURN(const Ref name, PopOne());
        ASSIGN_OR_RETURN(const Ref module, PopOne());
        // Names made of names would double with every operation.
        if (pickle_.at(module).kind != Kind::kText || pickle_.at(name).kind != Kind::kText) {
          return Bad("finds no texts for module and name");
        }
        return PushGlobal(pickle_.at(module).text, pickle_.at(name).text);
      }
      case Op::kReduce:
      case Op::kNewObj:
        return FixedRecord(Kind::kObject, 2);
      case Op::kBuild:
        return PopOne().status();  // attributes of an object: nothing we read has any
      case Op::kBinPersId:
        return FixedRecord(Kind::kPersistent, 1);
      default:
        return Bad("is not an operation of protocols 2 to 4 that weight files use");
    }
  }

  absl::Status Bad(absl::string_view what) const {
    const auto op = op_begin_ < bytes_.size() ? static_cast<unsigned char>(bytes_[op_begin_]) : 0u;
    return absl::InvalidArgumentError(
        absl::StrCat("pickle, byte ", op_begin_, ": operation 0x", absl::Hex(op, absl::kZeroPad2), " ", what));
  }

  absl::Status Skip(size_t count) {
    if (bytes_.size() - at_ < count) return Bad(absl::StrCat("needs ", count, " bytes, got ", bytes_.size() - at_));
    at_ += count;
    return absl::OkStatus();
  }

  template <class T>
  absl::Status Number(T* value) {
    RETURN_IF_ERROR(Skip(sizeof(T)));
    std::memcpy(value, bytes_.data() + at_ - sizeof(T), sizeof(T));
    return absl::OkStatus();
  }

  absl::Status Protocol() {
    uint8_t version = 0;
    RETURN_IF_ERROR(Number(&version));
    if (version >= 2 && version <= 4) return absl::OkStatus();
    return Bad(absl::StrCat("asks for protocol ", version, ", expected 2 to 4"));
  }

  absl::Status Push(PickleValue value) {
    if (pickle_.values.size() == kMaxPickleValues) return Bad(absl::StrCat("makes value ", kMaxPickleValues + 1));
    pickle_.values.push_back(std::move(value));
    stack_.push_back(static_cast<Ref>(pickle_.values.size() - 1));
    return absl::OkStatus();
  }

  // Values that lie above the newest mark.
  size_t Depth() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }

  absl::StatusOr<Ref> PopOne() {
    if (Depth() == 0) return Bad("finds the stack empty");
    const Ref top = stack_.back();
    stack_.pop_back();
    return top;
  }

  absl::StatusOr<std::vector<Ref>> PopToMark() {
    if (marks_.empty()) return Bad("finds no mark");
    std::vector<Ref> items(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }

  // The `count` newest values as one.
  absl::Status FixedRecord(Kind kind, size_t count) {
    if (Depth() < count) return Bad("finds too few values");
    std::vector<Ref> items(stack_.end() - static_cast<ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return Push({.kind = kind, .items = std::move(items)});
  }

  // Adds the `count` newest values to the one below them.
  absl::Status Extend(size_t count) {
    if (Depth() < count + 1) return Bad("finds too few values");
    const auto first = stack_.end() - static_cast<ptrdiff_t>(count);
    PickleValue& target = pickle_.values[*(first - 1)];
    const bool pairs = target.kind == Kind::kDict;
    if (target.kind != Kind::kList && target.kind != Kind::kObject && !pairs) return Bad("adds to what holds nothing");
    if (pairs && count % 2 != 0) return Bad("adds a key without a value");
    target.items.insert(target.items.end(), first, stack_.end());
    stack_.resize(stack_.size() - count);
    return absl::OkStatus();
  }

  template <class Index>
  absl::Status Get() {
    Index index = 0;
    RETURN_IF_ERROR(Number(&index));
    const auto found = memo_.find(index);
    if (found == memo_.end()) return Bad(absl::StrCat("asks for memo ", index, ", which is not there"));
    stack_.push_back(found->second);
    return absl::OkStatus();
  }

  template <class Index>
  absl::Status Put() {
    Index index = 0;
    RETURN_IF_ERROR(Number(&index));
    return PutAs(index);
  }

  absl::Status PutAs(uint32_t index) {
    if (Depth() == 0) return Bad("finds the stack empty");
    memo_[index] = stack_.back();
    if (memo_.size() > kMaxPickleValues) return Bad(absl::StrCat("makes memo ", kMaxPickleValues + 1));
    return absl::OkStatus();
  }

  template <class T>
  absl::Status Integer() {
    T value = 0;
    RETURN_IF_ERROR(Number(&value));
    return Push({.kind = Kind::kInt, .integer = value});
  }

  absl::Status Long() {
    uint8_t count = 0;
    RETURN_IF_ERROR(Number(&count));
    RETURN_IF_ERROR(Skip(count));
    const absl::string_view digits = bytes_.substr(at_ - count, count);
    if (count > 8) return Push({.kind = Kind::kBigInt, .text = std::string(digits)});
    const bool negative = count > 0 && (digits.back() & 0x80) != 0;
    int64_t value = negative ? -1 : 0;
    std::memcpy(&value, digits.data(), count);  // the sign fills the bytes above
    return Push({.kind = Kind::kInt, .integer = value});
  }

  absl::Status Float() {
    uint64_t bits = 0;
    RETURN_IF_ERROR(Number(&bits));
    return Push({.kind = Kind::kFloat, .number = std::bit_cast<double>(__builtin_bswap64(bits))});  // big-endian
  }

  template <class Length>
  absl::Status Text() {
    Length length = 0;
    RETURN_IF_ERROR(Number(&length));
    RETURN_IF_ERROR(Skip(length));
    return Push({.kind = Kind::kText, .text = std::string(bytes_.substr(at_ - length, length))});
  }

  // Two lines: module and name.
  absl::Status Global() {
    const size_t first = bytes_.find('\n', at_);
    const size_t second = first == bytes_.npos ? first : bytes_.find('\n', first + 1);
    if (second == bytes_.npos) return Bad("has no end of line");
    const absl::string_view module = bytes_.substr(at_, first - at_);
    at_ = second + 1;
    return PushGlobal(module, bytes_.substr(first + 1, second - first - 1));
  }

  absl::Status PushGlobal(absl::string_view module, absl::string_view name) {
    if (std::max(module.size(), name.size()) > kMaxGlobalBytes) {
      return Bad(absl::StrCat("names a module or what is in it with more than ", kMaxGlobalBytes, " bytes"));
    }
    return Push({.kind = Kind::kGlobal, .text = absl::StrCat(module, " ", name)});
  }

  const absl::string_view bytes_;
  size_t at_ = 0;        // the next byte
  size_t op_begin_ = 0;  // of the operation that runs
  Pickle pickle_;
  std::vector<Ref> stack_;
  std::vector<size_t> marks_;     // sizes that the stack had
  std::map<uint32_t, Ref> memo_;  // a tree: its time does not depend on what keys the file chooses
};

}  // namespace

absl::StatusOr<Pickle> ParsePickle(absl::string_view bytes) {
  if (bytes.size() > kMaxPickleBytes) bytes = bytes.substr(0, kMaxPickleBytes);
  return Machine(bytes).Run();
}

}  // namespace shardit
