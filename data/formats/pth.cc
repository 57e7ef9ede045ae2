#include "data/formats/pth.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "data/formats/float16.h"

namespace shardit {
namespace {

using Kind = PickleValue::Kind;

struct TypeRow {
  PthType type;
  absl::string_view storage;  // the class that the pickle names
  absl::string_view name;
  int64_t bytes;
};
constexpr std::array<TypeRow, 10> kTypes = {{{PthType::kF64, "torch DoubleStorage", "float64", 8},
                                             {PthType::kF32, "torch FloatStorage", "float32", 4},
                                             {PthType::kF16, "torch HalfStorage", "float16", 2},
                                             {PthType::kBF16, "torch BFloat16Storage", "bfloat16", 2},
                                             {PthType::kI64, "torch LongStorage", "int64", 8},
                                             {PthType::kI32, "torch IntStorage", "int32", 4},
                                             {PthType::kI16, "torch ShortStorage", "int16", 2},
                                             {PthType::kI8, "torch CharStorage", "int8", 1},
                                             {PthType::kU8, "torch ByteStorage", "uint8", 1},
                                             {PthType::kBool, "torch BoolStorage", "bool", 1}}};

const TypeRow& RowOf(PthType type) { return kTypes[static_cast<size_t>(type)]; }

// What the older form begins with: the number 0x1950a86a20f9469cfc6c, then version 1001.
constexpr char kLegacyMagic[] = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr int64_t kLegacyVersion = 1001;
// A file of shared dictionaries could make a walk over them longer than itself.
constexpr int64_t kMaxVisits = int64_t{1} << 20;
// Of a tensor, a group or a storage. A file may use one text for many of them, and each keeps a copy.
constexpr size_t kMaxNameBytes = 1024;

std::string Printable(absl::string_view name) { return absl::StrCat("'", absl::CHexEscape(name), "'"); }

template <class From, class Convert>
float ElementAs(const char* at, Convert convert) {
  From value;
  std::memcpy(&value, at, sizeof(From));
  return static_cast<float>(convert(value));
}
template <class From>
float ElementAs(const char* at) {
  return ElementAs<From>(at, [](From value) { return value; });
}

float ElementAsFloat(PthType type, const char* at) {
  switch (type) {
    case PthType::kF64:
      return ElementAs<double>(at);
    case PthType::kF32:
      return ElementAs<float>(at);
    case PthType::kF16:
      return ElementAs<uint16_t>(at, FloatFromFloat16Bits);
    case PthType::kBF16:
      return ElementAs<uint16_t>(at, FloatFromBFloat16Bits);
    case PthType::kI64:
      return ElementAs<int64_t>(at);
    case PthType::kI32:
      return ElementAs<int32_t>(at);
    case PthType::kI16:
      return ElementAs<int16_t>(at);
    case PthType::kI8:
      return ElementAs<int8_t>(at);
    case PthType::kU8:
      return ElementAs<uint8_t>(at);
    case PthType::kBool:
      return ElementAs<uint8_t>(at, [](uint8_t value) { return value != 0; });
  }
  return 0;
}

}  // namespace

int64_t ItemBytes(PthType type) { return RowOf(type).bytes; }
absl::string_view TypeName(PthType type) { return RowOf(type).name; }

int64_t PthTensor::elements() const {
  // Beside an empty dim the others may be of any size.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t elements = 1;
  for (const int64_t dim : shape) elements *= dim;
  return elements;
}

// Fills a reader from its file.
class PthParser {
 public:
  explicit PthParser(PthReader* reader) : reader_(*reader), file_(*reader->file_) {}

  absl::Status Parse() {
    std::array<char, 4> start = {};
    RETURN_IF_ERROR(file_.ReadAt(0, start.data(), std::min<int64_t>(file_.size(), start.size())));
    reader_.is_archive_ = std::memcmp(start.data(), "PK\x03\x04", 4) == 0;
    if (reader_.is_archive_) return ParseArchive();
    if (start[0] == '\x80' && start[1] == '\x02') return ParseLegacy();
    return Bad("is not a file of torch.save: expected a zip archive or a pickle of protocol 2");
  }

 private:
  absl::Status Bad(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("weights ", Quoted(file_.path()), ": ", what));
  }

  // An archive: <prefix>/data.pkl, and the storage with key k is <prefix>/data/k.
  absl::Status ParseArchive() {
    ASSIGN_OR_RETURN(const std::vector<ZipEntry> entries, ReadZipDirectory(file_));
    std::map<absl::string_view, const ZipEntry*> by_name;
    absl::string_view prefix;
    for (const ZipEntry& entry : entries) {
      by_name[entry.name] = &entry;
      if (absl::EndsWith(entry.name, "/data.pkl")) prefix = absl::StripSuffix(entry.name, "data.pkl");
    }
    if (prefix.empty()) return Bad("has no entry data.pkl: expected an archive of torch.save");
    ASSIGN_OR_RETURN(const std::string order, Content(by_name, absl::StrCat(prefix, "byteorder"), "little"));
    if (order != "little") return Bad(absl::StrCat("has byte order ", Printable(order), ", expected 'little'"));
    ASSIGN_OR_RETURN(const std::string program, Content(by_name, absl::StrCat(prefix, "data.pkl"), ""));
    ASSIGN_OR_RETURN(const Pickle pickle, PickleOf(program));
    RETURN_IF_ERROR(FindTensors(pickle));
    for (PthReader::Storage& storage : reader_.storages_) {
      const auto found = by_name.find(absl::StrCat(prefix, "data/", storage.key));
      if (found == by_name.end()) return Bad(absl::StrCat("has no storage ", Printable(storage.key)));
      RETURN_IF_ERROR(CheckStorage(storage, found->second->bytes));
      if (found->second->method != ZipMethod::kStored) {
        return Bad(absl::StrCat("storage ", Printable(storage.key), " is compressed, expected a stored entry"));
      }
      storage.entry = *found->second;
      storage.begin = storage.entry.begin;
    }
    return CheckTensors();
  }

  // A small entry of the archive; `missing` where there is none.
  absl::StatusOr<std::string> Content(const std::map<absl::string_view, const ZipEntry*>& entries,
                                      const std::string& name, absl::string_view missing) {
    const auto found = entries.find(name);
    if (found == entries.end()) return std::string(missing);
    const ZipEntry& entry = *found->second;
    if (entry.method != ZipMethod::kStored || entry.bytes > static_cast<int64_t>(kMaxPickleBytes)) {
      return Bad(absl::StrCat("entry ", Printable(name), " of ", entry.bytes, " bytes is compressed or above ",
                              kMaxPickleBytes, " bytes"));
    }
    std::string content(static_cast<size_t>(entry.bytes), '\0');
    RETURN_IF_ERROR(file_.ReadAt(entry.begin, content.data(), entry.bytes));
    return content;
  }

  absl::StatusOr<Pickle> PickleOf(absl::string_view bytes) {
    absl::StatusOr<Pickle> pickle = ParsePickle(bytes);
    if (pickle.ok()) return pickle;
    return Bad(pickle.status().message());
  }

  // The older form: pickles of the magic number, the version, the writer's machine, the object and the list of the
  // storages' keys, in whose order each storage follows as its number of elements (i64) and its elements.
  absl::Status ParseLegacy() {
    // The pickles lie before the storages, whose size is most of the file's: no more is read than pickles may take.
    std::string bytes(static_cast<size_t>(std::min<int64_t>(file_.size(), kMaxPickleBytes)), '\0');
    RETURN_IF_ERROR(file_.ReadAt(0, bytes.data(), static_cast<int64_t>(bytes.size())));
    absl::string_view rest = bytes;
    std::array<Pickle, 5> pickles;
    for (Pickle& pickle : pickles) {
      ASSIGN_OR_RETURN(pickle, PickleOf(rest));
      rest.remove_prefix(pickle.bytes);
      if (&pickle == &pickles[0] && pickle.at(pickle.root).text != absl::string_view(kLegacyMagic, 10)) {
        return Bad("is a pickle, but not one of torch.save: its magic number is missing");
      }
    }
    if (pickles[1].at(pickles[1].root).integer != kLegacyVersion) {
      return Bad(absl::StrCat("has version ", pickles[1].at(pickles[1].root).integer, ", expected ", kLegacyVersion));
    }
    RETURN_IF_ERROR(CheckMachine(pickles[2]));
    RETURN_IF_ERROR(FindTensors(pickles[3]));
    // Storages of tensors that nobody asks for lie between the others, too.
    for (PickleValue::Ref ref = 0; ref < pickles[3].values.size(); ++ref) {
      if (pickles[3].at(ref).kind == Kind::kPersistent) RETURN_IF_ERROR(StorageIndex("", ref).status());
    }
    RETURN_IF_ERROR(LocateStorages(pickles[4], static_cast<int64_t>(bytes.size() - rest.size())));
    return CheckTensors();
  }

  absl::Status CheckMachine(const Pickle& pickle) {
    const PickleValue& machine = pickle.at(pickle.root);
    for (size_t i = 0; i + 1 < machine.items.size(); i += 2) {
      const bool names_order = pickle.at(machine.items[i]).text == "little_endian";
      if (names_order && pickle.at(machine.items[i + 1]).integer == 0) return Bad("was written big-endian");
    }
    return absl::OkStatus();
  }

  absl::Status LocateStorages(const Pickle& pickle, int64_t begin) {
    const PickleValue& keys = pickle.at(pickle.root);
    if (keys.kind != Kind::kList || keys.items.size() > static_cast<size_t>(file_.size())) {
      return Bad("has no list of storages");
    }
    std::set<absl::string_view> seen;
    for (const PickleValue::Ref ref : keys.items) {
      const std::string& key = pickle.at(ref).text;
      const auto found = storage_of_key_.find(key);
      // Without its class the size of an element is not known, nor where the next storage begins.
      if (found == storage_of_key_.end()) return Bad(absl::StrCat("storage ", Printable(key), " is not of a tensor"));
      if (!seen.insert(key).second) return Bad(absl::StrCat("storage ", Printable(key), " appears twice"));
      PthReader::Storage& storage = reader_.storages_[found->second];
      int64_t elements = 0;
      if (file_.size() - begin < 8) return Bad(absl::StrCat("ends before storage ", Printable(key)));
      RETURN_IF_ERROR(file_.ReadAt(begin, &elements, 8));
      storage.begin = begin + 8;
      const int64_t left = (file_.size() - storage.begin) / ItemBytes(storage.type);
      if (elements != storage.elements || elements > left) {
        return Bad(absl::StrCat("storage ", Printable(key), " has ", elements, " elements, expected ", storage.elements,
                                "; the file has room for ", left));
      }
      begin = storage.begin + elements * ItemBytes(storage.type);
    }
    if (seen.size() == reader_.storages_.size()) return absl::OkStatus();
    return Bad(absl::StrCat("has ", seen.size(), " storages, expected ", reader_.storages_.size()));
  }

  absl::Status CheckStorage(const PthReader::Storage& storage, int64_t bytes) {
    const int64_t item = ItemBytes(storage.type);
    if (bytes % item == 0 && bytes / item == storage.elements) return absl::OkStatus();
    return Bad(absl::StrCat("storage ", Printable(storage.key), " of ", storage.elements, " ", TypeName(storage.type),
                            " has ", bytes, " bytes"));
  }

  // Walks the outermost dictionary and the dictionaries in it.
  absl::Status FindTensors(const Pickle& pickle) {
    pickle_ = &pickle;
    RETURN_IF_ERROR(FindIn("", pickle.root, /*enter=*/true));
    if (!reader_.tensors_.empty()) return absl::OkStatus();
    return Bad("holds no tensors: expected a dictionary of tensors (a state_dict) or of such dictionaries");
  }

  absl::Status FindIn(const std::string& group, PickleValue::Ref dictionary, bool enter) {
    const std::vector<PickleValue::Ref>& items = pickle_->at(dictionary).items;
    for (size_t i = FirstItem(dictionary); i + 1 < items.size(); i += 2) {
      if (++visits_ > kMaxVisits) return Bad("its dictionaries share their contents too often");
      const PickleValue& key = pickle_->at(items[i]);
      if (key.kind != Kind::kText) continue;
      const bool tensor = CalleeOf(items[i + 1]) != "", inner = enter && IsDictionary(items[i + 1]);
      if (tensor || inner) RETURN_IF_ERROR(CheckName(key.text));
      if (tensor) {
        RETURN_IF_ERROR(AddTensor(group, key.text, items[i + 1]));
      } else if (inner) {
        RETURN_IF_ERROR(FindIn(key.text, items[i + 1], /*enter=*/false));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckName(const std::string& name) const {
    if (name.size() <= kMaxNameBytes) return absl::OkStatus();
    return Bad(absl::StrCat("a name of ", name.size(), " bytes, which begins ", Printable(name.substr(0, 64)),
                            ": expected at most ", kMaxNameBytes));
  }

  // "torch._utils _rebuild_..." for the record of a tensor or parameter, else "".
  absl::string_view CalleeOf(PickleValue::Ref ref) const {
    const absl::string_view callee = AnyCallee(ref);
    return absl::StartsWith(callee, "torch._utils _rebuild_") ? callee : "";
  }
  absl::string_view AnyCallee(PickleValue::Ref ref) const {
    const PickleValue& value = pickle_->at(ref);
    return value.kind == Kind::kObject ? absl::string_view(pickle_->at(value.items[0]).text) : "";
  }
  bool IsDictionary(PickleValue::Ref ref) const {
    return pickle_->at(ref).kind == Kind::kDict || AnyCallee(ref) == "collections OrderedDict";
  }
  // Of a dictionary; an OrderedDict is the record of a call, and its keys and values follow callee and arguments.
  size_t FirstItem(PickleValue::Ref ref) const {
    if (!IsDictionary(ref)) return pickle_->at(ref).items.size();
    return pickle_->at(ref).kind == Kind::kDict ? 0 : 2;
  }

  absl::Status AddTensor(const std::string& group, const std::string& name, PickleValue::Ref ref) {
    const std::string what = absl::StrCat("tensor ", Printable(name), ": ");
    const absl::string_view callee = CalleeOf(ref);
    const PickleValue& arguments = pickle_->at(pickle_->at(ref).items[1]);
    if (callee == "torch._utils _rebuild_parameter" && !arguments.items.empty() &&
        CalleeOf(arguments.items[0]) == "torch._utils _rebuild_tensor_v2") {
      return AddTensor(group, name, arguments.items[0]);
    }
    if (callee != "torch._utils _rebuild_tensor_v2") {
      return Bad(absl::StrCat(what, "is made by ", Printable(callee), ", expected a dense tensor"));
    }
    if (arguments.items.size() < 4) return Bad(absl::StrCat(what, "has ", arguments.items.size(), " arguments"));
    PthTensor tensor{.group = group, .name = name};
    ASSIGN_OR_RETURN(tensor.storage, StorageIndex(what, arguments.items[0]));
    tensor.type = reader_.storages_[tensor.storage].type;
    const PickleValue& offset = pickle_->at(arguments.items[1]);
    if (offset.kind != Kind::kInt) return Bad(absl::StrCat(what, "its offset is not a number"));
    tensor.offset = offset.integer;
    ASSIGN_OR_RETURN(tensor.shape, Numbers(what, arguments.items[2]));
    ASSIGN_OR_RETURN(tensor.strides, Numbers(what, arguments.items[3]));
    reader_.tensors_.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<int64_t>> Numbers(const std::string& what, PickleValue::Ref ref) {
    const PickleValue& tuple = pickle_->at(ref);
    std::vector<int64_t> numbers;
    for (const PickleValue::Ref item : tuple.items) {
      const PickleValue& number = pickle_->at(item);
      if (tuple.kind != Kind::kTuple || number.kind != Kind::kInt || number.integer < 0 ||
          numbers.size() == kMaxPthRank) {
        return Bad(
            absl::StrCat(what, "its shape and strides are not tuples of at most ", kMaxPthRank, " numbers >= 0"));
      }
      numbers.push_back(number.integer);
    }
    return numbers;
  }

  // A storage is a persistent id: ("storage", class, key, place, elements), in the older form with a sixth, None.
  absl::StatusOr<size_t> StorageIndex(const std::string& what, PickleValue::Ref ref) {
    const PickleValue& persistent = pickle_->at(ref);
    if (persistent.kind != Kind::kPersistent) return Bad(absl::StrCat(what, "has no storage"));
    const std::vector<PickleValue::Ref>& id = pickle_->at(persistent.items[0]).items;
    const bool whole = id.size() == 5 || (id.size() == 6 && pickle_->at(id[5]).kind == Kind::kNone);
    if (!whole || pickle_->at(id[4]).kind != Kind::kInt || pickle_->at(id[4]).integer < 0) {
      return Bad(absl::StrCat(what, "its storage is not (class, key, place, elements)"));
    }
    const std::string& storage_class = pickle_->at(id[1]).text;
    const auto row = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const TypeRow& candidate) { return candidate.storage == storage_class; });
    if (row == kTypes.end()) {
      return Bad(absl::StrCat(what, "has elements of ", Printable(storage_class), ", which is not supported"));
    }
    RETURN_IF_ERROR(CheckName(pickle_->at(id[2]).text));
    PthReader::Storage storage{
        .key = pickle_->at(id[2]).text, .type = row->type, .elements = pickle_->at(id[4]).integer};
    const auto [place, added] = storage_of_key_.try_emplace(storage.key, reader_.storages_.size());
    if (added) {
      reader_.storages_.push_back(std::move(storage));
      return place->second;
    }
    const PthReader::Storage& known = reader_.storages_[place->second];
    if (known.type == storage.type && known.elements == storage.elements) return place->second;
    return Bad(absl::StrCat("storage ", Printable(storage.key), " has two types or sizes"));
  }

  absl::Status CheckTensors() {
    std::set<std::pair<absl::string_view, absl::string_view>> names;
    for (const PthTensor& tensor : reader_.tensors_) {
      const std::string what = absl::StrCat("tensor ", Printable(tensor.name), ": ");
      if (!names.insert({tensor.group, tensor.name}).second) return Bad(absl::StrCat(what, "appears twice"));
      const int64_t available = reader_.storages_[tensor.storage].elements;
      if (!Fits(tensor, available)) {
        return Bad(absl::StrCat(what, "shape [", absl::StrJoin(tensor.shape, ", "), "] with strides [",
                                absl::StrJoin(tensor.strides, ", "), "] from element ", tensor.offset,
                                " does not fit a storage of ", available, " elements"));
      }
    }
    return absl::OkStatus();
  }

  // Every element lies in the storage, and there are no more elements than the storage has (a stride of 0 repeats).
  static bool Fits(const PthTensor& tensor, int64_t available) {
    if (tensor.strides.size() != tensor.shape.size() || tensor.offset < 0 || tensor.offset > available) return false;
    if (std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end()) return true;
    int64_t elements = 1, last = tensor.offset;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      int64_t reach = 0;
      if (__builtin_mul_overflow(elements, tensor.shape[i], &elements) || elements > available ||
          __builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
          __builtin_add_overflow(last, reach, &last)) {
        return false;
      }
    }
    return last < available;
  }

  PthReader& reader_;
  const RandomAccessFile& file_;
  const Pickle* pickle_ = nullptr;
  std::map<std::string, size_t> storage_of_key_;
  int64_t visits_ = 0;
};

absl::StatusOr<PthReader> PthReader::Open(const std::string& path) {
  ASSIGN_OR_RETURN(RandomAccessFile file, RandomAccessFile::Open(path));
  PthReader reader(std::move(file));
  RETURN_IF_ERROR(PthParser(&reader).Parse());
  return reader;
}

std::vector<std::string> PthReader::groups() const {
  std::vector<std::string> groups;
  for (const PthTensor& tensor : tensors_) {
    if (std::find(groups.begin(), groups.end(), tensor.group) == groups.end()) groups.push_back(tensor.group);
  }
  return groups;
}

const PthTensor* PthReader::Find(absl::string_view group, absl::string_view name) const {
  for (const PthTensor& tensor : tensors_) {
    if (tensor.group == group && tensor.name == name) return &tensor;
  }
  return nullptr;
}

absl::StatusOr<std::vector<float>> PthReader::ReadAsFloat(const PthTensor& tensor) {
  const Storage& storage = storages_[tensor.storage];
  const int64_t item = ItemBytes(tensor.type), count = tensor.elements();
  std::vector<float> values(static_cast<size_t>(count));
  if (count == 0) return values;
  int64_t last = 0;
  for (size_t i = 0; i < tensor.shape.size(); ++i) last += (tensor.shape[i] - 1) * tensor.strides[i];
  std::string bytes(static_cast<size_t>((last + 1) * item), '\0');
  RETURN_IF_ERROR(
      file_->ReadAt(storage.begin + tensor.offset * item, bytes.data(), static_cast<int64_t>(bytes.size())));
  std::vector<int64_t> index(tensor.shape.size(), 0);
  int64_t at = 0;  // element of `bytes`
  for (float& value : values) {
    value = ElementAsFloat(tensor.type, bytes.data() + at * item);
    for (size_t dim = index.size(); dim-- > 0;) {
      at += tensor.strides[dim];
      if (++index[dim] < tensor.shape[dim]) break;
      at -= tensor.shape[dim] * tensor.strides[dim];
      index[dim] = 0;
    }
  }
  return values;
}

absl::Status PthReader::Verify() {
  if (!is_archive_) return absl::OkStatus();
  for (const Storage& storage : storages_) RETURN_IF_ERROR(ZipEntryReader(file_, storage.entry).VerifyCrc());
  return absl::OkStatus();
}

}  // namespace shardit
