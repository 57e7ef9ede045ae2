#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "launch/report/text.h"

namespace shardit {
namespace {

std::string Marks(size_t count) { return std::string(count, '?'); }

TEST(ReportText, CleanTextIsOneLineOfUtf8) {
  EXPECT_EQ(CleanText("W96-p4 · adaLN × 2"), "W96-p4 · adaLN × 2");
  EXPECT_EQ(CleanText("a\nb\tc\x01\x7f"), "a?b?c??");
  EXPECT_EQ(CleanText("\xff\xc3(\xe2\x82"), Marks(2) + "(" + Marks(2));  // stray, broken and torn bytes
  EXPECT_EQ(CleanText("\xc0\xaf\xed\xa0\x80"), Marks(5));                // overlong slash, a surrogate
  EXPECT_EQ(CleanText("\xf4\x90\x80\x80"), Marks(4));                    // beyond U+10FFFF
  EXPECT_EQ(CleanText("a\xe2\x80\xae"
                      "b\xe2\x81\xa6"),
            "a?b?");  // characters that turn the direction of writing
  EXPECT_EQ(CleanText("\xc2\x85\xe2\x80\xa8\xef\xbf\xbf"), Marks(3));
}

TEST(ReportText, CleanTextIsCut) {
  EXPECT_EQ(CleanText("abcdef", 6), "abcdef");
  EXPECT_EQ(CleanText("äöüäöü", 3), "äöü...");
}

TEST(ReportText, Escapes) {
  EXPECT_EQ(HtmlText("<b a=\"1\" c='2'>&amp;"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;amp;");
  EXPECT_EQ(GnuplotString("it's `ls` $(ls) @x \\n \"q\""), "'it''s `ls` $(ls) @x \\n \"q\"'");
  EXPECT_EQ(GnuplotString("a\nplot"), "'a plot'");
  EXPECT_EQ(GnuplotString("]]>"), "']] >'");
  EXPECT_EQ(GnuplotString("50% wide"), "'50% wide'");
  EXPECT_EQ(GnuplotTickLabel("50% wide, %it's"), "'50%% wide, %%it''s'");
}

TEST(ReportText, CsvCells) {
  EXPECT_EQ(CsvText("plain"), "plain");
  EXPECT_EQ(CsvText("a,b"), "\"a,b\"");
  EXPECT_EQ(CsvText("say \"no\""), "\"say \"\"no\"\"\"");
  EXPECT_EQ(CsvText("=1+1"), "'=1+1");
  EXPECT_EQ(CsvText("@x,y"), "\"'@x,y\"");
  for (const char* formula : {"+1", "-1", "\tx", "\rx"}) EXPECT_EQ(CsvText(formula).find(formula[0]) > 0, true);
  EXPECT_EQ(CsvText(""), "");
}

TEST(ReportText, Numbers) {
  EXPECT_EQ(SignificantDigits(0.012345, 3), "0.0123");
  EXPECT_EQ(SignificantDigits(1234.5678, 3), "1235");
  EXPECT_EQ(SignificantDigits(9.996, 3), "10.0");
  EXPECT_EQ(SignificantDigits(-0.5, 2), "-0.50");
  EXPECT_EQ(SignificantDigits(0, 3), "0");
  EXPECT_EQ(SignificantDigits(1.5e-7, 3), "1.50e-7");
  EXPECT_EQ(SignificantDigits(2.5e9, 2), "2.5e9");
  EXPECT_EQ(SignificantDigits(std::nan(""), 3), "-");
  EXPECT_EQ(Grouped(0), "0");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Grouped(-1234567), "-1,234,567");
  EXPECT_EQ(Grouped(-123), "-123");
  EXPECT_EQ(RoundTrip(0.1), "0.1");
  EXPECT_EQ(RoundTrip(std::numeric_limits<double>::infinity()), "");
}

}  // namespace
}  // namespace shardit
